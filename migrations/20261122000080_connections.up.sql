-- Which connections each instance holds, so that others can say what went with it. Kept over a crash of the server, as
-- the leases are, which say who is dead.

alter table presence_instances set logged;

create table live_connections (
    instance text not null,
    key text not null collate "C",
    record text not null,
    primary key (instance, key)
);
