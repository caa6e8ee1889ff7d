drop table event_log_groups;
drop table event_log_sources;
drop table event_log_ids;
drop table event_log;
drop table event_log_topics;
drop table event_log_partitions;
