-- Sources of positions that append nothing any more: the event log forgets what it remembers of them a day later.
create table event_log_ended_sources (
    source text primary key,
    ended_at timestamptz not null default now()
);
create index event_log_ended_sources_by_age on event_log_ended_sources (ended_at);

-- A backfill is a source of its own, and ends with its run, with its mapping, or by beginning anew under another id.
create function cdc_backfill_ends() returns trigger language plpgsql as $$
begin
    insert into event_log_ended_sources (source) values ('backfill:' || old.id) on conflict do nothing;
    return null;
end $$;

create trigger cdc_backfills_end after update on cdc_backfills
    for each row when (old.id <> new.id or (old.finished_at is null and new.finished_at is not null))
    execute function cdc_backfill_ends();
create trigger cdc_backfills_go after delete on cdc_backfills
    for each row when (old.finished_at is null) execute function cdc_backfill_ends();

insert into event_log_ended_sources (source)
select 'backfill:' || id from cdc_backfills where finished_at is not null
union
select s.source from event_log_sources s
where s.source like 'backfill:%'
    and not exists (select from cdc_backfills b where 'backfill:' || b.id = s.source and b.finished_at is null);
