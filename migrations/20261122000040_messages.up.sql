-- What is announced and not kept: read by every process within seconds, then removed. Nothing of it needs to survive a
-- crash of the server.

create unlogged table event_log_messages (
    id bigint generated always as identity primary key,
    application_id text not null,
    environment text not null,
    topic text not null,
    body text not null,
    created_at timestamptz not null default now()
);
