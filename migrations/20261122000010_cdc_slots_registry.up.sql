-- What it takes to give a slot up once nobody names its target any more, and what was lost with an earlier one.
alter table cdc_slots
    alter column creation drop not null,
    add column database_name text,
    add column publication text,
    -- Whether the publication is ours to drop.
    add column manages boolean not null default false,
    -- How to reach the target; null where only some processes know it, so that others leave the slot alone.
    add column sealed_url text,
    -- Who named the target last, each as application/environment.
    add column scopes text[] not null default '{}',
    add column gap json;
