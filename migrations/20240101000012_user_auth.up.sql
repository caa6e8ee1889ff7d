-- People who sign in. Passwords and session tokens are only here as hashes.
create table users (
    id text primary key,
    email text not null,
    name text not null,
    password_hash text not null,
    active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create unique index users_email on users (lower(email));

-- A role holds everywhere, or only in the application that it names.
create table user_roles (
    user_id text not null constraint user_roles_user references users (id) on delete cascade,
    role text not null
        constraint user_roles_role check (role in ('super_admin', 'admin', 'editor', 'viewer')),
    application_id text constraint user_roles_application references applications (id) on delete cascade
);

create unique index user_roles_once on user_roles (user_id, role, coalesce(application_id, ''));

create table sessions (
    id text primary key,
    user_id text not null constraint sessions_user references users (id) on delete cascade,
    token_hash bytea not null constraint sessions_token unique,
    address text,
    user_agent text,
    created_at timestamptz not null default now(),
    last_used_at timestamptz not null default now(),
    expires_at timestamptz not null
);

create index sessions_by_user on sessions (user_id, id);
create index sessions_by_expiry on sessions (expires_at);

-- Failed sign-ins: one row for (account, address), and one for the address alone, with an empty account.
create table login_failures (
    account_hash bytea not null,
    address text not null,
    failures integer not null,
    blocked_until timestamptz,
    last_failed_at timestamptz not null default now(),
    constraint login_failures_pkey primary key (account_hash, address)
);

create index login_failures_by_age on login_failures (last_failed_at);
