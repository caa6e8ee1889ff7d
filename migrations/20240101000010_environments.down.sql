alter table topics drop constraint topics_scope;
alter table topics add constraint topics_application
    foreign key (application_id) references applications (id) on delete cascade;
alter table topics drop constraint topics_pkey;
-- One environment remains: what was set up in the others has no place without this migration.
delete from topics where environment <> 'development';
alter table topics drop column environment;
alter table topics add constraint topics_pkey primary key (application_id, name);
drop table environments;
