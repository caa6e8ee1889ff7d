-- Whose outbox a target database's is: exactly one scope's, whatever URLs lead to it.
create table outbox_targets (
    system text not null,
    database text not null,
    application_id text not null,
    environment text not null,
    claimed_at timestamptz not null default now(),
    constraint outbox_targets_pkey primary key (system, database),
    constraint outbox_targets_once unique (application_id, environment),
    constraint outbox_targets_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);

-- How each outbox stands, as the last process that looked has found it. That of the platform is the one without scope.
create table outbox_status (
    outbox text not null constraint outbox_status_pkey primary key,
    application_id text,
    environment text,
    code text,
    message text,
    cure text,
    pending bigint not null default 0,
    oldest_at timestamptz,
    halted text[] not null default '{}',
    updated_at timestamptz not null default now(),
    constraint outbox_status_scope foreign key (application_id, environment)
        references environments (application_id, environment) on delete cascade
);
create index outbox_status_by_scope on outbox_status (application_id, environment);
