alter table cdc_slots
    drop column seen_lsn,
    drop column seen_ms,
    drop column seen_xid;
