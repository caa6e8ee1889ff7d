-- Row changes that a mapping looked at, and what became of them: many to a row, because one each would cost the
-- database more than the events do.
create table cdc_events (
    application_id text not null,
    environment text not null,
    -- In the order in which they were written down, which is that of their commits within one target.
    chunk bigint generated always as identity,
    size smallint not null,
    -- What its changes have in common, each with at least one change: an array of
    -- { table, operation, outcome, results: [{ mappingId, outcome, topic?, reason? }] }.
    shapes jsonb not null,
    -- JSON that nobody asks the database about: an array of
    -- [shape, lsn, ordinal, commit in Unix milliseconds, key or null, [event id or null of each result]].
    changes text not null,
    recorded_at timestamptz not null default now(),
    constraint cdc_events_pkey primary key (application_id, environment, chunk),
    constraint cdc_events_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- Compressing takes more than it saves: the most of it are ids and keys.
alter table cdc_events alter column changes set storage external;

create index cdc_events_by_age on cdc_events (recorded_at);

-- Up to where each scope's changes are written down: each is once, though it may be read again.
create table cdc_events_marks (
    application_id text not null,
    environment text not null,
    -- System identifier, timeline and slot creation: what makes a position unique.
    source text not null,
    lsn bigint not null,
    ordinal bigint not null,
    constraint cdc_events_marks_pkey primary key (application_id, environment),
    constraint cdc_events_marks_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);
