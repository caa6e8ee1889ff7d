alter table topics drop column history_seconds;
