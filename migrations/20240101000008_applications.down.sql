drop table applications;
