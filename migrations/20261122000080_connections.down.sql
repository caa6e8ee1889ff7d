drop table live_connections;
alter table presence_instances set unlogged;
