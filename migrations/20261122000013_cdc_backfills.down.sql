drop table cdc_backfills;
