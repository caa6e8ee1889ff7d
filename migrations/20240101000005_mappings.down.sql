drop table mapping_versions;
drop table mappings;
