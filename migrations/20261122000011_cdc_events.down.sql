drop table cdc_events_marks;
drop table cdc_events;
