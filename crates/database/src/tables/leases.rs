//! `leases`: who leads what, for how long, and in which term.

use crate::DatabaseError;
use sqlx::PgExecutor;
use std::time::Duration;

/// Takes the lease `name` for `holder` where nobody holds it, and answers its new term, higher than all before.
///
/// Time is the database's, so that holders' clocks do not matter.
///
/// # Errors
/// Only those of the database.
pub async fn acquire(
    executor: impl PgExecutor<'_>,
    name: &str,
    holder: &str,
    length: Duration,
) -> Result<Option<u64>, DatabaseError> {
    let sql = "
        insert into leases as l (name, holder, term, expires_at)
        values ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
        on conflict (name) do update
            set holder = excluded.holder, term = l.term + 1, expires_at = excluded.expires_at
            where l.holder is null or l.expires_at < clock_timestamp()
        returning term";
    let term: Option<i64> = sqlx::query_scalar(sql)
        .bind(name)
        .bind(holder)
        .bind(length.as_secs_f64())
        .fetch_optional(executor)
        .await?;
    Ok(term.and_then(|term| u64::try_from(term).ok()))
}

/// Holds the lease for another `length`; `false` where somebody else has taken it since.
///
/// # Errors
/// Only those of the database.
pub async fn renew(
    executor: impl PgExecutor<'_>,
    name: &str,
    term: u64,
    length: Duration,
) -> Result<bool, DatabaseError> {
    let sql = "
        update leases set expires_at = clock_timestamp() + make_interval(secs => $3)
        where name = $1 and term = $2 and holder is not null";
    let query =
        sqlx::query(sql).bind(name).bind(i64::try_from(term).unwrap_or(i64::MAX)).bind(length.as_secs_f64());
    Ok(query.execute(executor).await?.rows_affected() > 0)
}

/// Gives the lease back, so that another can take it at once.
///
/// # Errors
/// Only those of the database.
pub async fn release(executor: impl PgExecutor<'_>, name: &str, term: u64) -> Result<(), DatabaseError> {
    let sql = "update leases set holder = null where name = $1 and term = $2";
    sqlx::query(sql).bind(name).bind(i64::try_from(term).unwrap_or(i64::MAX)).execute(executor).await?;
    Ok(())
}
