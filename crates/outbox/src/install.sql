-- The outbox of the realtime platform. Safe to run again; needs the right to create in this schema.

create table if not exists event_outbox (
    id bigserial primary key,
    topic text not null,
    event_type text not null,
    payload jsonb not null,
    table_name text,
    operation text,
    created_at timestamptz not null default now(),
    processed_at timestamptz
);

create index if not exists event_outbox_pending
    on event_outbox ((hashtext(topic) & 15), id) where processed_at is null;

create index if not exists event_outbox_processed
    on event_outbox (processed_at) where processed_at is not null;

-- Wakes the workers at commit; without it they look once a second.
create or replace function event_outbox_wake() returns trigger language plpgsql as $$
begin
    perform pg_notify('event_outbox', '');
    return null;
end $$;

drop trigger if exists event_outbox_wake on event_outbox;

create trigger event_outbox_wake after insert on event_outbox
    for each statement execute function event_outbox_wake();
