create table topics (
    name text not null constraint topics_name check (octet_length(name) between 1 and 255),
    description text not null,
    owner text not null,
    active_schema_version integer,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint topics_pkey primary key (name)
);
