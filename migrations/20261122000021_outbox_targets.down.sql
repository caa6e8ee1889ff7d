drop table outbox_status;
drop table outbox_targets;
