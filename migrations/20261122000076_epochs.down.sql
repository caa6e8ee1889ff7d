alter table cdc_slots drop column gap_told;
alter table event_log_partitions drop column renewals;
