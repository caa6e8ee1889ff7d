alter table leases
    drop column backend_start,
    drop column backend_pid;
