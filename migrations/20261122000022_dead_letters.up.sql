-- What could never be delivered or appended, kept until somebody has looked at it.
create table dead_letters (
    id text not null constraint dead_letters_pkey primary key,
    application_id text not null,
    environment text not null,
    kind text not null constraint dead_letters_kind check (kind in ('webhook', 'cdc', 'outbox')),
    webhook_id text,
    event_id text not null,
    reason text not null,
    attempts integer not null default 1,
    content jsonb not null,
    created_at timestamptz not null default now(),
    constraint dead_letters_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- What fails again is the same letter.
create unique index dead_letters_once
    on dead_letters (application_id, environment, kind, event_id, coalesce(webhook_id, ''));
