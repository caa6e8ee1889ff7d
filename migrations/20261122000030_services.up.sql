-- The registered namespaces of documents. A name holds in all environments of its application.
create table services (
    id text not null,
    application_id text not null
        constraint services_application references applications (id) on delete cascade,
    name text not null constraint services_name_rule check (name ~ '^[a-z][a-z0-9_-]{0,99}$'),
    description text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint services_pkey primary key (application_id, id),
    constraint services_name unique (application_id, name)
);
