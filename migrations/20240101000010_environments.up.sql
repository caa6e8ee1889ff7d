-- The three environments of each application: what scoped rows refer to, so that none outlives its tenant.
create table environments (
    application_id text not null constraint environments_application references applications (id) on delete cascade,
    environment text not null
        constraint environments_name check (environment in ('development', 'staging', 'production')),
    constraint environments_pkey primary key (application_id, environment)
);

insert into environments (application_id, environment)
select id, environment from applications cross join unnest(array['development', 'staging', 'production']) environment;

alter table topics add column environment text not null default 'development';
alter table topics alter column environment drop default;
alter table topics drop constraint topics_pkey;
alter table topics add constraint topics_pkey primary key (application_id, environment, name);
alter table topics drop constraint topics_application;
alter table topics add constraint topics_scope
    foreign key (application_id, environment) references environments (application_id, environment) on delete cascade;
