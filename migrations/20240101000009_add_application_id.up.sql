-- A signing key vouches for one application, in all its environments.
alter table signing_keys
    add column application_id text not null default 'app_default'
        constraint signing_keys_application references applications (id) on delete cascade;
alter table signing_keys alter column application_id drop default;
create index signing_keys_by_application on signing_keys (application_id, id);

alter table topics
    add column application_id text not null default 'app_default'
        constraint topics_application references applications (id) on delete cascade;
alter table topics alter column application_id drop default;
alter table topics drop constraint topics_pkey;
alter table topics add constraint topics_pkey primary key (application_id, name);
