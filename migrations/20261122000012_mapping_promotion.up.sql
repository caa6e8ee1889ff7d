-- Whether a mapping's table is sent anew after changes were lost.
alter table mappings add column resync boolean not null default false;

-- From where a version came, where it was promoted.
alter table mapping_versions
    add column promoted_from text
        constraint mapping_versions_promoted_from
            check (promoted_from in ('development', 'staging')),
    add column promoted_version integer;
