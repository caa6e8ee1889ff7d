-- How often topics of a partition were given a new epoch while they had one: who remembers heads forgets them then.
alter table event_log_partitions add column renewals bigint not null default 0;

-- Whether the subscribers of the topics concerned were told of the gap.
alter table cdc_slots add column gap_told boolean not null default true;
