drop table event_log_messages;
