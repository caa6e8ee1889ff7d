drop trigger cdc_backfills_end on cdc_backfills;
drop trigger cdc_backfills_go on cdc_backfills;
drop function cdc_backfill_ends();
drop table event_log_ended_sources;
