-- The last transaction of a slot that was read and made events: a target that does not have it any more was set back.
alter table cdc_slots
    add column seen_lsn bigint,
    add column seen_ms bigint,
    add column seen_xid bigint;
