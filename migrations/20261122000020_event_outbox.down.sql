drop table event_outbox;
drop function event_outbox_wake();
