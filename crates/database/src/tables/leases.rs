//! `leases`: who leads what, for how long, and in which term.
//!
//! A holder may name a database session of its own. Where that session has ended, the holder has died, and its lease
//! can be taken at once instead of after it has run out.

use crate::DatabaseError;
use sqlx::{
    FromRow, PgExecutor,
    types::chrono::{DateTime, Utc},
};
use std::time::Duration;

/// The channel on which the names of leases are told that were given back.
pub const FREED: &str = "realtime_leases";

/// A database session, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct LeaseSession {
    /// Its process on the server.
    pub backend_pid: i32,
    /// When it began: process ids come again.
    pub backend_start: DateTime<Utc>,
}

/// The session that `executor` is. Only as long as it lives do leases that name it hold.
///
/// # Errors
/// Only those of the database.
pub async fn session(executor: impl PgExecutor<'_>) -> Result<LeaseSession, DatabaseError> {
    let sql = "select pid as backend_pid, backend_start from pg_stat_activity where pid = pg_backend_pid()";
    Ok(sqlx::query_as(sql).fetch_one(executor).await?)
}

/// Takes the lease `name` for `holder` where nobody holds it, and answers its new term, higher than all before.
///
/// Time is the database's, so that holders' clocks do not matter. Of the sessions of another user the database does
/// not tell when they began: such a holder counts as alive until its lease runs out.
///
/// # Errors
/// Only those of the database.
pub async fn acquire(
    executor: impl PgExecutor<'_>,
    name: &str,
    holder: &str,
    session: Option<LeaseSession>,
    length: Duration,
) -> Result<Option<u64>, DatabaseError> {
    let sql = "
        insert into leases as l (name, holder, term, expires_at, backend_pid, backend_start)
        values ($1, $2, 1, clock_timestamp() + make_interval(secs => $3), $4, $5)
        on conflict (name) do update
            set holder = excluded.holder, term = l.term + 1, expires_at = excluded.expires_at,
                backend_pid = excluded.backend_pid, backend_start = excluded.backend_start
            where l.holder is null or l.expires_at < clock_timestamp()
                or (l.backend_pid is not null and not exists (select from pg_stat_activity a
                    where a.pid = l.backend_pid
                        and (a.backend_start = l.backend_start or a.backend_start is null)))
        returning term";
    let term: Option<i64> = sqlx::query_scalar(sql)
        .bind(name)
        .bind(holder)
        .bind(length.as_secs_f64())
        .bind(session.map(|session| session.backend_pid))
        .bind(session.map(|session| session.backend_start))
        .fetch_optional(executor)
        .await?;
    Ok(term.and_then(|term| u64::try_from(term).ok()))
}

/// Counts a new term of the lease `name`, higher than all before, for `holder`, who holds the lease elsewhere; `None`
/// where somebody holds it here. It is not held here then: who knows of no other place may take it at once, and has a
/// higher term.
///
/// # Errors
/// Only those of the database.
pub async fn raise(
    executor: impl PgExecutor<'_>,
    name: &str,
    holder: &str,
) -> Result<Option<u64>, DatabaseError> {
    acquire(executor, name, holder, None, Duration::ZERO).await
}

/// Who was given `term`, as long as it is the last and was not given back.
///
/// # Errors
/// Only those of the database.
pub async fn holder(
    executor: impl PgExecutor<'_>,
    name: &str,
    term: u64,
) -> Result<Option<String>, DatabaseError> {
    let query = sqlx::query_scalar("select holder from leases where name = $1 and term = $2");
    let holder = query.bind(name).bind(i64::try_from(term).unwrap_or(i64::MAX)).fetch_optional(executor);
    Ok(holder.await?.flatten())
}

/// Holds the lease for another `length`; `false` where somebody else has taken it since.
///
/// # Errors
/// Only those of the database.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    name: &str,
    term: u64,
    session: Option<LeaseSession>,
    length: Duration,
) -> Result<bool, DatabaseError> {
    let sql = "
        update leases set expires_at = clock_timestamp() + make_interval(secs => $3),
            backend_pid = $4, backend_start = $5
        where name = $1 and term = $2 and holder is not null";
    let done = sqlx::query(sql)
        .bind(name)
        .bind(i64::try_from(term).unwrap_or(i64::MAX))
        .bind(length.as_secs_f64())
        .bind(session.map(|session| session.backend_pid))
        .bind(session.map(|session| session.backend_start))
        .execute(executor)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Gives the lease back, so that another can take it at once, and tells those who wait on [`FREED`].
///
/// # Errors
/// Only those of the database.
pub async fn release(executor: impl PgExecutor<'_>, name: &str, term: u64) -> Result<(), DatabaseError> {
    let sql = "
        with given_back as (update leases set holder = null where name = $1 and term = $2 returning name)
        select pg_notify($3, name) from given_back";
    let query = sqlx::query(sql).bind(name).bind(i64::try_from(term).unwrap_or(i64::MAX));
    query.bind(FREED).execute(executor).await?;
    Ok(())
}
