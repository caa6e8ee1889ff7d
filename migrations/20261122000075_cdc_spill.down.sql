alter table cdc_reader_status drop column spilled_bytes, drop column spilled_events;
drop table cdc_spilled_events;
drop table cdc_spills;
