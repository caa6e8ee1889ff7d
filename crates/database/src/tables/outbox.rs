//! `outbox_targets` and `outbox_status`: whose outbox a target's is, and how each stands.
//!
//! [`give_up_unset`] goes over all tenants; its rows carry their scope.

use crate::DatabaseError;
use serde::Serialize;
use shared_types::Scope;
use sqlx::{FromRow, PgExecutor, PgPool};

/// What keeps an outbox from being read.
#[derive(Clone, Copy, Debug)]
pub struct Trouble<'a> {
    /// A stable word.
    pub code: &'a str,
    /// What is wrong.
    pub message: &'a str,
    /// What helps.
    pub cure: &'a str,
}

/// How an outbox was found.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// It is read.
    Read {
        /// Rows that wait.
        pending: i64,
        /// When the oldest of them was written, Unix milliseconds.
        oldest_ms: Option<i64>,
        /// Topics that stand still.
        halted: &'a [String],
    },
    /// It cannot be read; what waits is shown as it was last counted.
    Troubled(Trouble<'a>),
}

/// How an outbox stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxStatus {
    /// A stable word for what keeps it from being read.
    pub code: Option<String>,
    /// What is wrong.
    pub message: Option<String>,
    /// What helps.
    pub cure: Option<String>,
    /// Rows that wait, counted up to 100,000; where it cannot be read, as last counted.
    pub pending: i64,
    /// When the oldest of them was written, Unix milliseconds.
    pub oldest_at: Option<i64>,
    /// Topics that stand still because an append failed.
    pub halted: Vec<String>,
    /// When a worker last looked, Unix milliseconds.
    pub updated_at: i64,
    /// Whether that is so long ago that no worker can be reading it.
    pub is_stale: bool,
}

/// Claims the outbox of the database `database` of the cluster `system` for `scope`, which gives up any other it had;
/// `false` where it is another scope's.
///
/// # Errors
/// Violates `outbox_targets_scope` where the application is gone.
pub async fn claim(
    pool: &PgPool,
    scope: &Scope,
    system: &str,
    database: &str,
) -> Result<bool, DatabaseError> {
    let (application, environment) = (scope.application().as_str(), scope.environment().as_str());
    let mut tx = pool.begin().await?;
    sqlx::query(
        "delete from outbox_targets
        where application_id = $1 and environment = $2 and (system <> $3 or database <> $4)",
    )
    .bind(application)
    .bind(environment)
    .bind(system)
    .bind(database)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into outbox_targets (application_id, environment, system, database) values ($1, $2, $3, $4)
        on conflict do nothing",
    )
    .bind(application)
    .bind(environment)
    .bind(system)
    .bind(database)
    .execute(&mut *tx)
    .await?;
    let is_ours: bool = sqlx::query_scalar(
        "select exists (select from outbox_targets
            where application_id = $1 and environment = $2 and system = $3 and database = $4)",
    )
    .bind(application)
    .bind(environment)
    .bind(system)
    .bind(database)
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(is_ours)
}

/// Gives up the claims, and forgets the status, of scopes that are set to no outbox any more.
///
/// # Errors
/// Only those of the database.
pub async fn give_up_unset(executor: impl PgExecutor<'_>) -> Result<(), DatabaseError> {
    let sql = "
        with given_up as (
            delete from outbox_targets t where not exists (
                select from applications a
                where a.id = t.application_id and a.config -> 'outbox' -> t.environment is not null)
        )
        delete from outbox_status s where s.application_id is not null and not exists (
            select from applications a
            where a.id = s.application_id and a.config -> 'outbox' -> s.environment is not null)";
    sqlx::query(sql).execute(executor).await?;
    Ok(())
}

/// Writes how the outbox of `scope` (or the platform's own) was found.
///
/// # Errors
/// Violates `outbox_status_scope` where the application is gone.
pub async fn show(
    executor: impl PgExecutor<'_>,
    scope: Option<&Scope>,
    seen: &Seen<'_>,
) -> Result<(), DatabaseError> {
    let sql = "
        insert into outbox_status as s (outbox, application_id, environment, code, message, cure, pending, oldest_at,
            halted, updated_at)
        values ($1, $2, $3, $4, $5, $6, coalesce($7, 0), to_timestamp($8::float8 / 1000), coalesce($9, '{}'),
            clock_timestamp())
        on conflict (outbox) do update set code = $4, message = $5, cure = $6, pending = coalesce($7, s.pending),
            oldest_at = case when $7 is null then s.oldest_at else excluded.oldest_at end,
            halted = coalesce($9, s.halted), updated_at = excluded.updated_at";
    let (trouble, pending, oldest_ms, halted) = match *seen {
        Seen::Read { pending, oldest_ms, halted } => (None, Some(pending), oldest_ms, Some(halted)),
        Seen::Troubled(trouble) => (Some(trouble), None, None, None),
    };
    sqlx::query(sql)
        .bind(scope.map_or_else(|| "platform".to_owned(), ToString::to_string))
        .bind(scope.map(|scope| scope.application().as_str()))
        .bind(scope.map(|scope| scope.environment().as_str()))
        .bind(trouble.map(|trouble| trouble.code))
        .bind(trouble.map(|trouble| trouble.message))
        .bind(trouble.map(|trouble| trouble.cure))
        .bind(pending)
        .bind(oldest_ms)
        .bind(halted)
        .execute(executor)
        .await?;
    Ok(())
}

/// How the outbox of the target of `scope` stands; `None` where there is none, or nobody has looked yet.
///
/// # Errors
/// Only those of the database.
pub async fn status(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
) -> Result<Option<OutboxStatus>, DatabaseError> {
    let sql = "
        select code, message, cure, pending, (extract(epoch from oldest_at) * 1000)::bigint as oldest_at, halted,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at,
            updated_at < clock_timestamp() - interval '30 seconds' as is_stale
        from outbox_status where application_id = $1 and environment = $2";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.fetch_optional(executor).await?)
}
