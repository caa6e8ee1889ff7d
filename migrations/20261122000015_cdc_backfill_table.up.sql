-- Whose rows a backfill sends: the keys that it notes are those of this table.
alter table cdc_backfills add column table_name text;
