-- Which row changes become which events. Application and environment are part of the key from the start; the
-- foreign key to them follows once those tables exist.
create table mappings (
    application_id text not null,
    environment text not null,
    id text collate "C" not null,
    table_schema text not null,
    table_name text not null,
    topic text not null,
    -- json, not jsonb: the members of a payload keep their order.
    definition json not null,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint mappings_pkey primary key (application_id, environment, id)
);

create index mappings_by_topic on mappings (application_id, environment, topic, id);

-- What a mapping said in each of its versions.
create table mapping_versions (
    application_id text not null,
    environment text not null,
    mapping_id text collate "C" not null,
    version integer not null,
    definition json not null,
    created_at timestamptz not null default now(),
    constraint mapping_versions_pkey primary key (application_id, environment, mapping_id, version),
    constraint mapping_versions_mapping foreign key (application_id, environment, mapping_id)
        references mappings (application_id, environment, id) on delete cascade
);
