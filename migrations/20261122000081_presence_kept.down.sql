drop table presence_kept;
