-- Which Redis holds the event log, where Redis does: one row, the witness outside of Redis by which a server that
-- has lost acknowledged events is known. sequences holds, for each partition, a number that was acknowledged.

create table event_log_redis (
    one_row boolean primary key default true check (one_row),
    generation text not null,
    nodes text[] not null,
    sequences bigint[] not null,
    renewed_at timestamptz not null default now()
);
