-- The event log: one append-only table in 64 partitions. Appends to a partition are serialized by its row in
-- event_log_partitions, so that sequence order is commit order and a reader by position never skips a row.

create table event_log_partitions (
    partition smallint primary key,
    sequence bigint not null default 0,
    bytes bigint not null default 0
);

insert into event_log_partitions (partition) select generate_series(0, 63);

-- A row for each epoch of a topic. In event_log its id stands for scope, topic and epoch, which keeps rows and index
-- entries small. Rows of earlier epochs stay as long as events name them.
create table event_log_topics (
    id bigint generated always as identity primary key,
    application_id text not null,
    environment text not null,
    topic text not null,
    partition smallint not null,
    epoch text not null,
    last_offset bigint not null default 0,
    is_current boolean not null default true,
    updated_at timestamptz not null default now()
) with (fillfactor = 70);

create unique index event_log_topics_current on event_log_topics (application_id, environment, topic)
    where is_current;

create index event_log_topics_by_age on event_log_topics (updated_at);

-- `source` is a number that the platform's code names. The columns of fixed width come first, so that they need no
-- padding.
create table event_log (
    partition smallint not null,
    source smallint not null,
    sequence bigint not null,
    topic_id bigint not null,
    topic_offset bigint not null,
    appended_at timestamptz not null default now(),
    event_id text not null,
    event_type text not null,
    payload text not null,
    metadata text not null,
    primary key (partition, sequence)
);

create unique index event_log_by_topic on event_log (topic_id, topic_offset);

-- Publishers' ids, remembered on their own for as long as a repeat must be recognized.
create table event_log_ids (
    application_id text not null,
    environment text not null,
    topic text not null,
    producer text not null,
    event_id text not null,
    fingerprint bytea not null,
    epoch text not null,
    topic_offset bigint not null,
    created_at timestamptz not null default now(),
    primary key (application_id, environment, topic, producer, event_id)
);

create index event_log_ids_by_age on event_log_ids (created_at);

-- How far each replication source has been appended, by partition, and under which leader's term.
create table event_log_sources (
    partition smallint not null,
    source text not null,
    term bigint not null,
    lsn bigint not null,
    ordinal bigint not null,
    mapping text not null,
    primary key (partition, source)
);

-- How far each group of side-effect readers has come.
create table event_log_groups (
    name text not null,
    partition smallint not null,
    sequence bigint not null,
    primary key (name, partition)
);
