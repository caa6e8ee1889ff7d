//! Every statement on `event_outbox`. Plain functions over an executor; the same for the platform's and a target's.

use crate::{
    PARTITIONS,
    row::{MAX_PAYLOAD_BYTES, OutboxRow},
};
use sqlx::{FromRow, PgConnection, PgExecutor};

/// The first half of the advisory locks' keys; the second is the partition.
const LOCKS: i32 = 0x6f75_7462;
/// Rows claimed together.
pub const BATCH: i64 = 100;
/// A claim ends behind the row whose payload reaches so many bytes of all.
pub const BATCH_BYTES: i64 = 16 * 1024 * 1024;
/// Characters that are read of a type, a table's name and an operation: more than each may have.
const READ_CHARACTERS: i32 = 300;
/// Rows counted at most, so that looking at a long backlog stays cheap.
const COUNTED: i64 = 100_000;

/// Which form the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Rows name their scope.
    Platform,
    /// All rows are one scope's.
    Target,
}

/// Who a database is.
#[derive(Clone, Debug, FromRow)]
pub struct Identity {
    /// The cluster's system identifier.
    pub system: String,
    /// The database's name.
    pub database: String,
}

/// What waits in an outbox.
#[derive(Clone, Copy, Debug, Default, FromRow)]
pub struct Backlog {
    /// Rows, counted up to 100,000.
    pub pending: i64,
    /// When the oldest was written, Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// How long ago that is.
    pub lag_seconds: f64,
}

/// Who the database is.
///
/// # Errors
/// Those of the database.
pub async fn identify(executor: impl PgExecutor<'_>) -> sqlx::Result<Identity> {
    let sql = "select system_identifier::text as system, current_database()::text as database from pg_control_system()";
    sqlx::query_as(sql).fetch_one(executor).await
}

/// The partitions in which rows wait that are not of `halted` topics: one look into the index each, however many wait.
///
/// # Errors
/// Those of the database; `42P01` where there is no outbox.
pub async fn pending(executor: impl PgExecutor<'_>, form: Form, halted: &[String]) -> sqlx::Result<Vec<i32>> {
    let sql = match form {
        Form::Platform => {
            "select p from generate_series(0, $1 - 1) p cross join lateral (
                select from event_outbox where processed_at is null and hashtext(topic) & 15 = p
                    and application_id || '/' || environment || '/' || topic <> all ($2) limit 1) waiting"
        }
        Form::Target => {
            "select p from generate_series(0, $1 - 1) p cross join lateral (
                select from event_outbox where processed_at is null and hashtext(topic) & 15 = p
                    and topic <> all ($2) limit 1) waiting"
        }
    };
    sqlx::query_scalar(sql).bind(PARTITIONS).bind(halted).fetch_all(executor).await
}

/// Those of `topics` of which rows wait.
///
/// # Errors
/// Those of the database.
pub async fn waiting(
    executor: impl PgExecutor<'_>,
    form: Form,
    topics: &[String],
) -> sqlx::Result<Vec<String>> {
    let sql = match form {
        Form::Platform => {
            "select t from unnest($1::text[]) t where exists (
                select from event_outbox where processed_at is null
                    and hashtext(topic) & 15 = hashtext(regexp_replace(t, '^[^/]*/[^/]*/', '')) & 15
                    and application_id || '/' || environment || '/' || topic = t)"
        }
        Form::Target => {
            "select t from unnest($1::text[]) t where exists (
                select from event_outbox where processed_at is null
                    and hashtext(topic) & 15 = hashtext(t) & 15 and topic = t)"
        }
    };
    sqlx::query_scalar(sql).bind(topics).fetch_all(executor).await
}

/// Takes `partition` until the transaction ends; `false` where another worker has it.
///
/// # Errors
/// Those of the database.
pub async fn lock(connection: &mut PgConnection, partition: i32) -> sqlx::Result<bool> {
    let query = sqlx::query_scalar("select pg_try_advisory_xact_lock($1, $2)").bind(LOCKS).bind(partition);
    query.fetch_one(connection).await
}

/// Claims the first rows of `partition` by id, until the transaction ends. Payloads above [`MAX_PAYLOAD_BYTES`] stay
/// where they are, and of the other texts no more is read than shows that they are too long.
///
/// # Errors
/// Those of the database.
pub async fn claim(
    connection: &mut PgConnection,
    form: Form,
    partition: i32,
    halted: &[String],
) -> sqlx::Result<Vec<OutboxRow>> {
    let sql = match form {
        Form::Platform => {
            "with claimed as materialized (
                select id, topic, left(event_type, $6) as event_type, payload::text as payload,
                    left(table_name, $6) as table_name, left(operation, $6) as operation,
                    case when isfinite(created_at) then (extract(epoch from created_at) * 1000)::bigint end as created_ms, application_id, environment
                from event_outbox where processed_at is null and hashtext(topic) & 15 = $1
                    and application_id || '/' || environment || '/' || topic <> all ($2)
                order by id limit $3 for update skip locked),
            measured as (
                select *, octet_length(payload)::bigint as bytes, sum(octet_length(payload)) over (order by id) as total
                from claimed)
            select id, topic, event_type, case when bytes <= $4 then payload end as payload, bytes, table_name,
                operation, created_ms, application_id, environment
            from measured where total - bytes < $5 order by id"
        }
        Form::Target => {
            "with claimed as materialized (
                select id, topic, left(event_type, $6) as event_type, payload::text as payload,
                    left(table_name, $6) as table_name, left(operation, $6) as operation,
                    case when isfinite(created_at) then (extract(epoch from created_at) * 1000)::bigint end as created_ms
                from event_outbox where processed_at is null and hashtext(topic) & 15 = $1 and topic <> all ($2)
                order by id limit $3 for update skip locked),
            measured as (
                select *, octet_length(payload)::bigint as bytes, sum(octet_length(payload)) over (order by id) as total
                from claimed)
            select id, topic, event_type, case when bytes <= $4 then payload end as payload, bytes, table_name,
                operation, created_ms, null::text as application_id, null::text as environment
            from measured where total - bytes < $5 order by id"
        }
    };
    let query = sqlx::query_as(sql).bind(partition).bind(halted).bind(BATCH);
    query.bind(MAX_PAYLOAD_BYTES).bind(BATCH_BYTES).bind(READ_CHARACTERS).fetch_all(connection).await
}

/// Marks rows as done.
///
/// # Errors
/// Those of the database.
pub async fn mark(connection: &mut PgConnection, ids: &[i64]) -> sqlx::Result<()> {
    let query = sqlx::query("update event_outbox set processed_at = clock_timestamp() where id = any ($1)");
    query.bind(ids).execute(connection).await.map(drop)
}

/// What waits.
///
/// # Errors
/// Those of the database.
pub async fn backlog(executor: impl PgExecutor<'_>) -> sqlx::Result<Backlog> {
    let sql = "
        select count(*) as pending, (extract(epoch from min(since)) * 1000)::bigint as oldest_ms,
            coalesce(extract(epoch from clock_timestamp() - min(since)), 0)::float8 as lag_seconds
        from (select case when isfinite(created_at) then created_at end as since
            from event_outbox where processed_at is null limit $1) waiting";
    sqlx::query_as(sql).bind(COUNTED).fetch_one(executor).await
}

/// Removes up to `limit` rows that were done more than 24 h ago, and answers them.
///
/// # Errors
/// Those of the database.
pub async fn clean(executor: impl PgExecutor<'_>, form: Form, limit: i64) -> sqlx::Result<Vec<OutboxRow>> {
    let sql = match form {
        Form::Platform => {
            "delete from event_outbox where id in (
                select id from event_outbox where processed_at < now() - interval '24 hours'
                order by processed_at limit $1 for update skip locked)
            returning id, topic, event_type, null::text as payload, 0::bigint as bytes, table_name, operation,
                case when isfinite(created_at) then (extract(epoch from created_at) * 1000)::bigint end as created_ms, application_id, environment"
        }
        Form::Target => {
            "delete from event_outbox where id in (
                select id from event_outbox where processed_at < now() - interval '24 hours'
                order by processed_at limit $1 for update skip locked)
            returning id, topic, event_type, null::text as payload, 0::bigint as bytes, table_name, operation,
                case when isfinite(created_at) then (extract(epoch from created_at) * 1000)::bigint end as created_ms,
                null::text as application_id, null::text as environment"
        }
    };
    sqlx::query_as(sql).bind(limit).fetch_all(executor).await
}
