-- The database session of a lease's holder: when that is gone, so is the holder, and nobody has to wait.
alter table leases
    add column backend_pid integer,
    add column backend_start timestamptz;
