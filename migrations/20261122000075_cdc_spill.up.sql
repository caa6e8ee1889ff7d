-- What the readers of targets keep here while the event log does not take it, in the order of commits. A row a target;
-- only the leader of the newest term writes.
create table cdc_spills (
    system_identifier text not null,
    slot text not null,
    term bigint not null,
    last_number bigint not null default 0,
    events bigint not null default 0,
    bytes bigint not null default 0,
    constraint cdc_spills_pkey primary key (system_identifier, slot)
);

-- An event as its mapping made it, with the position by which the log recognizes it.
create table cdc_spilled_events (
    system_identifier text not null,
    slot text not null,
    number bigint not null,
    application_id text not null,
    environment text not null,
    topic text not null,
    event_id text not null,
    event_type text not null,
    payload text not null,
    extra_metadata text not null,
    timestamp_ms bigint not null,
    source text not null,
    lsn bigint not null,
    ordinal bigint not null,
    mapping text not null,
    bytes integer not null,
    constraint cdc_spilled_events_pkey primary key (system_identifier, slot, number),
    constraint cdc_spilled_events_spill foreign key (system_identifier, slot)
        references cdc_spills (system_identifier, slot) on delete cascade,
    constraint cdc_spilled_events_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);
create index cdc_spilled_events_by_scope on cdc_spilled_events (application_id, environment);

alter table cdc_reader_status
    add column spilled_events bigint not null default 0,
    add column spilled_bytes bigint not null default 0;
