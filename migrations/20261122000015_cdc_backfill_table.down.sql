alter table cdc_backfills drop column table_name;
