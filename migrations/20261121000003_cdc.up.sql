alter table mappings add constraint mappings_scope
    foreign key (application_id, environment) references environments (application_id, environment) on delete cascade;

-- Whether a mapping is followed.
create table cdc_subscriptions (
    application_id text not null,
    environment text not null,
    id text collate "C" not null,
    mapping_id text collate "C" not null,
    active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint cdc_subscriptions_pkey primary key (application_id, environment, id),
    constraint cdc_subscriptions_one_a_mapping unique (application_id, environment, mapping_id),
    constraint cdc_subscriptions_mapping foreign key (application_id, environment, mapping_id)
        references mappings (application_id, environment, id) on delete cascade
);

insert into cdc_subscriptions (application_id, environment, id, mapping_id)
select application_id, environment, 'sub_' || substr(id, 5), id from mappings;

-- Grows with every change of a mapping or a subscription, in the same transaction: readers look at one number.
create table cdc_version (
    one boolean primary key default true,
    version bigint not null default 0,
    constraint cdc_version_one check (one)
);

insert into cdc_version default values;

create function cdc_version_grows() returns trigger language plpgsql as $$
begin
    update cdc_version set version = version + 1;
    return null;
end $$;

create trigger mappings_version after insert or update or delete on mappings
    for each statement execute function cdc_version_grows();
create trigger cdc_subscriptions_version after insert or update or delete on cdc_subscriptions
    for each statement execute function cdc_version_grows();

-- Whether a scope's target is to be read; started where nothing is said.
create table cdc_desired (
    application_id text not null,
    environment text not null,
    running boolean not null,
    updated_at timestamptz not null default now(),
    constraint cdc_desired_pkey primary key (application_id, environment),
    constraint cdc_desired_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- What the reader of a scope's target last said of itself.
create table cdc_reader_status (
    application_id text not null,
    environment text not null,
    state text not null constraint cdc_reader_status_state
        check (state in ('stopped', 'connecting', 'streaming', 'error')),
    code text,
    message text,
    cure text,
    slot text,
    publication text,
    lag_bytes bigint,
    lag_seconds double precision,
    last_lsn text,
    rows_per_second double precision not null default 0,
    rows_total bigint not null default 0,
    events_total bigint not null default 0,
    mappings json not null default '[]',
    gap json,
    leader text,
    updated_at timestamptz not null default now(),
    constraint cdc_reader_status_pkey primary key (application_id, environment),
    constraint cdc_reader_status_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- Which slot of which cluster was made when: a slot that is made anew begins a new source of positions.
create table cdc_slots (
    system_identifier text not null,
    slot text not null,
    creation text not null,
    created_at timestamptz not null default now(),
    constraint cdc_slots_pkey primary key (system_identifier, slot)
);

-- Who leads what. A row outlives its holder, so that the term only grows.
create table leases (
    name text primary key,
    holder text,
    term bigint not null default 0,
    expires_at timestamptz not null
);
