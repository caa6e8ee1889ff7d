alter table mapping_versions drop column promoted_version, drop column promoted_from;
alter table mappings drop column resync;
