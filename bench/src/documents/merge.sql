-- One transaction of the group commit: `size` documents are locked, written with their revisions, and their events
-- appended. The statements and their order are those of crates/database (documents/edits.rs, event_log/load.rs and
-- store.rs); what the platform sends as arrays is made here by the server, of the same sizes.
--
-- size, documents, services: numbers. partitions, topics: arrays, by service, of the partition and the row of its topic.
-- data_bytes, diff_bytes, undo_bytes, payload_bytes, metadata_bytes: lengths of texts.
\set first random(0, :documents - 1)
begin;
select d.application_id, d.environment, d.service, d.id, d.revision, d.data, d.deleted, d.created_at, d.updated_at,
       d.expires_at
from (
    select 'app_default' as application_id, 'development' as environment, 'bench' || (n % :services::bigint) as service,
           'd' || n as id
    from (select (:first::bigint + 7919 * g) % :documents::bigint as n from generate_series(0, :size::bigint - 1) g) n
) w join sync_documents d using (application_id, environment, service, id)
order by d.application_id, d.environment, d.service, d.id for update of d;
select partition, sequence, (select system_identifier from pg_control_system())::text
       || ':' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as generation
from event_log_partitions where partition = any (array(
    select (:partitions::smallint[])[1 + (:first::bigint + 7919 * g) % :documents::bigint % :services::bigint]
    from generate_series(0, :size::bigint - 1) g
)) order by partition for update;
with w as (
    select 'app_default' as application_id, 'development' as environment, 'bench' || (n % :services::bigint) as service,
           'd' || n as id
    from (select (:first::bigint + 7919 * g) % :documents::bigint as n from generate_series(0, :size::bigint - 1) g) n
), changed as (
    update sync_documents d set revision = d.revision + 1, data = rpad(d.revision::text, :data_bytes::int, 'x'),
           deleted = false, created_at = d.created_at, updated_at = now(), expires_at = null
    from w where d.application_id = w.application_id and d.environment = w.environment and d.service = w.service
             and d.id = w.id
    returning d.service, d.id, d.revision
), remembered as (
    insert into sync_document_revisions (application_id, environment, service, id, revision, change, diff, undo,
                                         event_id, created_at)
    select 'app_default', 'development', service, id, revision, 'updated', rpad(revision::text, :diff_bytes::int, 'x'),
           rpad(revision::text, :undo_bytes::int, 'x'), 'evt_' || lpad(revision::text, 26, '0'), now()
    from changed on conflict do nothing
)
select count(*) from changed;
with w as (
    select 1 + (:first::bigint + 7919 * g) % :documents::bigint % :services::bigint as s
    from generate_series(0, :size::bigint - 1) g
), grown as (
    update event_log_partitions p set sequence = p.sequence + g.n, bytes = p.bytes + g.n * :payload_bytes::bigint
    from (select (:partitions::smallint[])[s] as partition, count(*) as n from w group by 1) g
    where p.partition = g.partition
), heads as (
    update event_log_topics t set last_offset = t.last_offset + h.n,
           updated_at = case when t.updated_at > now() - interval '1 minute' then t.updated_at else now() end
    from (select (:topics::bigint[])[s] as id, count(*) as n from w group by 1) h where t.id = h.id returning t.id
)
select count(*) as heads from heads;
insert into event_log (partition, source, sequence, topic_id, topic_offset, event_id, event_type, payload, metadata)
select p.partition, 2, p.sequence + 1 - row_number() over (partition by p.partition),
       t.id, t.last_offset + 1 - row_number() over (partition by t.id),
       'evt_' || lpad(t.last_offset::text, 26, '0'), 'sync.updated',
       rpad(t.last_offset::text, :payload_bytes::int, 'x'), rpad(t.last_offset::text, :metadata_bytes::int, 'x')
from (
    select 1 + (:first::bigint + 7919 * g) % :documents::bigint % :services::bigint as s
    from generate_series(0, :size::bigint - 1) g
) w
join event_log_topics t on t.id = (:topics::bigint[])[w.s]
join event_log_partitions p on p.partition = (:partitions::smallint[])[w.s];
commit;
