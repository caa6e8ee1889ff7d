//! What a target says of itself when it is asked before it is read: questions only, nothing is changed.

use crate::{
    row::{Column, Relation},
    trouble::Trouble,
    values::{Kind, OwnTypes},
};
use shared_types::mapping::TableName;
use sqlx::{FromRow, PgConnection};
use std::collections::BTreeMap;

/// The server and the user.
#[derive(Debug, FromRow)]
pub(crate) struct ServerFacts {
    /// `server_version_num`.
    pub version: i32,
    /// As people write it.
    pub version_text: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether it takes no writes by this user unless they ask for it.
    pub read_only: bool,
    /// `logical`, or less.
    pub wal_level: String,
    /// The user.
    pub role: String,
    /// Whether the user may use replication, by itself or by a role that managed services grant.
    pub may_replicate: bool,
    /// Whether the user may make a publication.
    pub may_publish: bool,
    /// Slots in use, and allowed.
    pub slots: i64,
    pub max_slots: i32,
    /// Walsenders in use, and allowed.
    pub senders: i64,
    pub max_senders: i32,
    /// `max_slot_wal_keep_size` in bytes; negative for no limit.
    pub keep_bytes: i64,
    /// Age of the oldest open transaction that writes, in seconds.
    pub oldest_write_seconds: f64,
}

/// Asks for [`ServerFacts`].
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn server(connection: &mut PgConnection) -> Result<ServerFacts, Trouble> {
    let sql = "
        select current_setting('server_version_num')::int as version,
            current_setting('server_version') as version_text,
            pg_is_in_recovery() as in_recovery,
            current_setting('default_transaction_read_only')::bool as read_only,
            current_setting('wal_level') as wal_level,
            current_user::text as role,
            exists (select from pg_roles r where (r.rolname = current_user and (r.rolreplication or r.rolsuper))
                or (r.rolname = 'rds_replication' and pg_has_role(r.oid, 'member'))) as may_replicate,
            has_database_privilege(current_database(), 'create') as may_publish,
            (select count(*) from pg_replication_slots) as slots,
            current_setting('max_replication_slots')::int as max_slots,
            (select count(*) from pg_stat_replication) as senders,
            current_setting('max_wal_senders')::int as max_senders,
            (select case when setting::bigint < 0 then -1 else setting::bigint * 1024 * 1024 end
                from pg_settings where name = 'max_slot_wal_keep_size') as keep_bytes,
            coalesce((select extract(epoch from now() - min(xact_start)) from pg_stat_activity
                where backend_xid is not null), 0)::double precision as oldest_write_seconds";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
}

/// How much of the log a slot keeps.
#[derive(Clone, Copy, Debug, PartialEq, FromRow)]
pub(crate) struct Retained {
    /// Bytes of the log that the slot keeps from being removed.
    pub retained_bytes: i64,
    /// The end of the log.
    pub here: i64,
    /// `max_slot_wal_keep_size` in bytes; negative for no limit.
    pub keep_bytes: i64,
}

impl Retained {
    /// The share of what may be kept; `None` without a limit.
    pub fn share(&self) -> Option<f64> {
        (self.keep_bytes > 0).then(|| self.retained_bytes as f64 / self.keep_bytes as f64)
    }
}

/// How much of the log the slot `name` keeps; `None` where there is none, or it has lost its place.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn retained(connection: &mut PgConnection, name: &str) -> Result<Option<Retained>, Trouble> {
    let sql = "
        select pg_wal_lsn_diff(here, restart_lsn)::bigint as retained_bytes,
            pg_wal_lsn_diff(here, '0/0')::bigint as here,
            (select case when setting::bigint < 0 then -1 else setting::bigint * 1024 * 1024 end
                from pg_settings where name = 'max_slot_wal_keep_size') as keep_bytes
        from pg_replication_slots,
            lateral (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end) wal (here)
        where slot_name = $1 and restart_lsn is not null";
    Ok(sqlx::query_as(sql).bind(name).fetch_optional(connection).await?)
}

/// Slots of the cluster that nobody reads, each with how much log it keeps, the greediest first.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn unread_slots(connection: &mut PgConnection) -> Result<Vec<String>, Trouble> {
    let sql = "
        select slot_name::text from pg_replication_slots where not active order by restart_lsn nulls first limit 5";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Which of a table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Those that a query answers.
    All,
    /// Those that the stream holds: generated ones are not among them.
    Streamed,
}

/// The tables of `wanted` with their `columns`, by the catalog.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn relations(
    connection: &mut PgConnection,
    wanted: &[TableName],
    columns: Columns,
    own: &OwnTypes,
) -> Result<BTreeMap<TableName, Relation>, Trouble> {
    let sql = "
        select n.nspname::text, c.relname::text, a.attname::text, a.atttypid::bigint
        from unnest($1::text[], $2::text[]) as wanted (schema, name)
        join pg_namespace n on n.nspname = wanted.schema
        join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and ($3 or a.attgenerated = '')
        order by 1, 2, a.attnum";
    let schemas: Vec<&str> = wanted.iter().map(|table| &*table.schema).collect();
    let names: Vec<&str> = wanted.iter().map(|table| &*table.name).collect();
    let query = sqlx::query_as(sql).bind(schemas).bind(names).bind(columns == Columns::All);
    let rows: Vec<(String, String, String, i64)> = query.fetch_all(connection).await?;
    let mut relations: BTreeMap<TableName, Relation> = BTreeMap::new();
    for (schema, name, column, type_oid) in rows {
        let table = TableName::new(schema, name);
        let relation =
            relations.entry(table.clone()).or_insert_with(|| Relation { oid: 0, table, columns: Vec::new() });
        let kind = Kind::of(u32::try_from(type_oid).unwrap_or(0), own);
        relation.columns.push(Column { name: column, kind, key: false });
    }
    Ok(relations)
}
