-- Documents on Redis append their events there themselves: nobody hands events on from this log any more, and a reader
-- that never comes back would keep them.
delete from event_log_groups where name = 'redis';
