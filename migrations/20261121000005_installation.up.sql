-- What tells this installation from others: part of the names that it leaves in databases it reads.
create table installation (
    only boolean primary key default true check (only),
    id text not null default replace(gen_random_uuid()::text, '-', '')
);

insert into installation default values;
