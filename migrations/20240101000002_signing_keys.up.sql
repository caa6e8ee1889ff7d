-- Keys that sign tokens. The secret is sealed; a deactivated key still verifies, a deleted one does not.
create table signing_keys (
    id text primary key,
    algorithm text not null default 'HS256' constraint signing_keys_algorithm check (algorithm = 'HS256'),
    secret_sealed text not null,
    active boolean not null default true,
    created_at timestamptz not null default now(),
    deactivated_at timestamptz
);
