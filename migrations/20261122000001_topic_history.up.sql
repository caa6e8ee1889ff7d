-- How long a topic's events are kept, where that is not what the server keeps of every topic.
alter table topics
    add column history_seconds integer
        constraint topics_history_seconds check (history_seconds between 60 and 31536000);
