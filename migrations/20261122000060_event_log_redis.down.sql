drop table event_log_redis;
