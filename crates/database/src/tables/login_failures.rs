//! `login_failures`: how often signing in failed for an account from an address, and from the address at all.

use crate::DatabaseError;
use sqlx::{PgConnection, PgExecutor};

/// From when on and how long a further attempt waits.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// Failures that cost nothing.
    pub free_failures: i32,
    /// The wait after the first failure beyond; doubles with each further one.
    pub first_seconds: i32,
    /// The longest wait.
    pub max_seconds: i32,
}

/// Counts an attempt as failed until it turns out otherwise, so that attempts made at once count too.
///
/// Answers the milliseconds to wait where attempts are held back; nothing is counted then.
///
/// # Errors
/// Only those of the database.
pub async fn begin(
    connection: &mut PgConnection,
    account_hash: &[u8],
    address: &str,
    delay: Delay,
) -> Result<Option<i64>, DatabaseError> {
    // Both rows always in the same order, so that two attempts cannot wait for each other.
    let mut accounts: [&[u8]; 2] = [&[], account_hash];
    accounts.sort_unstable();
    for account in accounts {
        let sql = "
            insert into login_failures (account_hash, address, failures) values ($1, $2, 0)
            on conflict on constraint login_failures_pkey do update set failures =
                case when login_failures.last_failed_at < now() - interval '24 hours' then 0
                     else login_failures.failures end
            returning ceil(extract(epoch from blocked_until - clock_timestamp()) * 1000)::bigint";
        let wait: Option<i64> =
            sqlx::query_scalar(sql).bind(account).bind(address).fetch_one(&mut *connection).await?;
        if let Some(wait) = wait.filter(|ms| *ms > 0) {
            return Ok(Some(wait));
        }
    }
    let sql = "
        update login_failures set failures = failures + 1, last_failed_at = now(),
            blocked_until = case when failures + 1 >= $3 then clock_timestamp()
                + make_interval(secs => least($4 * power(2, least(failures + 1 - $3, 20)), $5)) end
        where account_hash in ($1, ''::bytea) and address = $2";
    sqlx::query(sql)
        .bind(account_hash)
        .bind(address)
        .bind(delay.free_failures)
        .bind(f64::from(delay.first_seconds))
        .bind(f64::from(delay.max_seconds))
        .execute(connection)
        .await?;
    Ok(None)
}

/// Takes back what [`begin`] counted, and forgets the failures of this account from this address.
///
/// # Errors
/// Only those of the database.
pub async fn succeeded(
    connection: &mut PgConnection,
    account_hash: &[u8],
    address: &str,
) -> Result<(), DatabaseError> {
    // The address first, as in begin. Its wait ends, since somebody there knows a password; its failures stay.
    let sql = "
        update login_failures set failures = greatest(failures - 1, 0), blocked_until = null
        where account_hash = ''::bytea and address = $1";
    sqlx::query(sql).bind(address).execute(&mut *connection).await?;
    sqlx::query("delete from login_failures where account_hash = $1 and address = $2")
        .bind(account_hash)
        .bind(address)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets failures of more than a day ago; answers how many rows.
///
/// # Errors
/// Only those of the database.
pub async fn forget_old(executor: impl PgExecutor<'_>) -> Result<u64, DatabaseError> {
    let sql = "delete from login_failures where last_failed_at < now() - interval '24 hours'";
    Ok(sqlx::query(sql).execute(executor).await?.rows_affected())
}
