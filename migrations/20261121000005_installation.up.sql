-- What tells this installation from others: part of the names that it leaves in databases it reads.
create table installation (
    one boolean primary key default true constraint installation_one check (one),
    id text not null default replace(gen_random_uuid()::text, '-', '')
);

insert into installation default values;
