alter table topics drop constraint topics_pkey;
alter table topics drop column application_id;
alter table topics add constraint topics_pkey primary key (name);
alter table signing_keys drop column application_id;
