drop table cdc_events;
