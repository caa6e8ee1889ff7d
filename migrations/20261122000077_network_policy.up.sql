-- Whether a registered target may be in a private network, so that whoever gives its slot up goes by the same rule.
alter table cdc_slots add column allow_private boolean not null default false;
