-- Row changes that a mapping looked at, and what became of them.
create table cdc_events (
    application_id text not null,
    environment text not null,
    -- In the order in which they were written down, which is that of their commits within one target.
    id bigint generated always as identity,
    -- System identifier, timeline and slot creation: what makes the position unique.
    source text not null,
    lsn bigint not null,
    ordinal bigint not null,
    table_name text not null,
    operation text not null
        constraint cdc_events_operation check (operation in ('insert', 'update', 'delete')),
    outcome text not null constraint cdc_events_outcome check (outcome in ('routed', 'filtered', 'failed')),
    -- The row's key, where its replica identity tells it.
    key json,
    -- What each mapping made of it.
    results json not null,
    mapping_ids text[] not null,
    committed_at timestamptz not null,
    recorded_at timestamptz not null default now(),
    constraint cdc_events_pkey primary key (application_id, environment, id),
    constraint cdc_events_once unique (application_id, environment, source, lsn, ordinal),
    constraint cdc_events_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

create index cdc_events_by_age on cdc_events (recorded_at);
