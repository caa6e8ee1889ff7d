-- Who is where, where there is no Redis. After a crash of the server the tables are empty and every instance enters
-- its members again.

create unlogged table presence_instances (
    instance text primary key,
    expires_at timestamptz not null
);

create unlogged table presence_members (
    application_id text not null,
    environment text not null,
    place text not null collate "C",
    socket_id text not null collate "C",
    client_id text not null,
    instance text not null,
    data text not null,
    joined_at bigint not null,
    primary key (application_id, environment, place, socket_id)
);

create index presence_members_by_instance on presence_members (instance);
