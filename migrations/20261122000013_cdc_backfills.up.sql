-- Existing rows sent as events, chunk by chunk in the order of their keys.
create table cdc_backfills (
    application_id text not null,
    environment text not null,
    id text collate "C" not null,
    mapping_id text collate "C" not null,
    state text not null default 'pending'
        constraint cdc_backfills_state check (state in ('pending', 'running', 'done', 'failed', 'cancelled')),
    reason text not null constraint cdc_backfills_reason check (reason in ('requested', 'resync')),
    -- The number of the chunk that comes next, and behind which key it begins; null at the beginning.
    chunk bigint not null default 0,
    after_key json,
    -- Where the chunk ends that was read last and may have been sent: read again, it must end there again.
    upto_key json,
    -- The last key that the table had at the beginning: what comes behind it comes with the stream.
    end_key json,
    rows_sent bigint not null default 0,
    rows_expected bigint,
    message text,
    cure text,
    requested_by text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint cdc_backfills_pkey primary key (application_id, environment, id),
    constraint cdc_backfills_mapping foreign key (application_id, environment, mapping_id)
        references mappings (application_id, environment, id) on delete cascade
);

create unique index cdc_backfills_one_at_a_time on cdc_backfills (application_id, environment, mapping_id)
    where state in ('pending', 'running');
