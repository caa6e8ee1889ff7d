-- Keys by which a customer's servers speak for an application's environment. The secret is only here as a hash.
create table api_keys (
    id text primary key,
    application_id text not null,
    environment text not null,
    name text not null,
    secret_hash bytea not null,
    permissions text[] not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint api_keys_scope
        foreign key (application_id, environment) references environments (application_id, environment) on delete cascade
);

create index api_keys_by_application on api_keys (application_id, id);

-- A revocation covers the application in all its environments. A row of one token goes when the token has expired.
create table token_revocations (
    application_id text not null constraint token_revocations_application references applications (id) on delete cascade,
    jti text not null,
    expires_at timestamptz not null,
    constraint token_revocations_pkey primary key (application_id, jti)
);

create index token_revocations_by_expiry on token_revocations (expires_at);

-- A subject's tokens carry the counter that held when they were issued; a lower one is revoked. Tokens without
-- a counter are compared by the second in which they were issued.
create table subject_revocations (
    application_id text not null
        constraint subject_revocations_application references applications (id) on delete cascade,
    sub text not null,
    counter bigint not null,
    revoked_at timestamptz not null,
    constraint subject_revocations_pkey primary key (application_id, sub)
);

-- Grows with every change of keys, revocations and applications: what instances look at every second.
create table auth_version (
    only_row boolean primary key default true constraint auth_version_only_row check (only_row),
    version bigint not null default 0
);

insert into auth_version default values;

create function bump_auth_version() returns trigger language plpgsql as $$
begin
    update auth_version set version = version + 1;
    perform pg_notify('realtime_auth', '');
    return null;
end
$$;

create trigger signing_keys_version after insert or update or delete on signing_keys
    for each statement execute function bump_auth_version();
create trigger api_keys_version after insert or update or delete on api_keys
    for each statement execute function bump_auth_version();
create trigger token_revocations_version after insert or update on token_revocations
    for each statement execute function bump_auth_version();
create trigger subject_revocations_version after insert or update or delete on subject_revocations
    for each statement execute function bump_auth_version();
create trigger applications_version after insert or delete or update of config on applications
    for each statement execute function bump_auth_version();
