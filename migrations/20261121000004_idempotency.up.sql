-- What a creating request answered, for its repeat. Bodies are only here as keyed hashes, answers without secrets.
create table idempotency_records (
    application_id text not null,
    environment text not null,
    caller text not null,
    route text not null,
    key text not null,
    body_hash bytea not null,
    status smallint,
    response text,
    created_at timestamptz not null default now(),
    constraint idempotency_records_pkey primary key (application_id, environment, caller, route, key),
    constraint idempotency_records_scope
        foreign key (application_id, environment) references environments (application_id, environment) on delete cascade
);

create index idempotency_records_by_age on idempotency_records (created_at);
