-- Who hands events on names its group by itself.
select 1;
