alter table cdc_reader_status drop column retained_share, drop column retained_bytes;
