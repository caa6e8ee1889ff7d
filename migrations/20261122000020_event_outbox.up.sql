-- The transactional outbox: whoever may write here publishes in the same transaction as everything else it writes.
create table event_outbox (
    id bigserial constraint event_outbox_pkey primary key,
    topic text not null,
    event_type text not null,
    payload jsonb not null,
    table_name text,
    operation text,
    created_at timestamptz not null default now(),
    processed_at timestamptz,
    application_id text not null default 'app_default',
    environment text not null default 'development',
    constraint event_outbox_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- By partition of topics, of which a worker claims one at a time.
create index event_outbox_pending on event_outbox ((hashtext(topic) & 15), id) where processed_at is null;
create index event_outbox_processed on event_outbox (processed_at) where processed_at is not null;

create function event_outbox_wake() returns trigger language plpgsql as $$
begin
    perform pg_notify('event_outbox', '');
    return null;
end $$;

create trigger event_outbox_wake after insert on event_outbox
    for each statement execute function event_outbox_wake();
