-- Tenants. Connection URLs within config are sealed, each for its application, purpose and environment.
create table applications (
    id text primary key,
    name text not null,
    config jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

insert into applications (id, name) values ('app_default', 'Default application');
