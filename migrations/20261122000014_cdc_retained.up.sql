-- How much of its log a target keeps for the slot, and as what share of what it may keep.
alter table cdc_reader_status
    add column retained_bytes bigint,
    add column retained_share double precision;
