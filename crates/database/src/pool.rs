//! The pool of connections to the platform's own database.

use crate::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use std::time::Duration;

/// The pool that every table function runs on.
pub type Pool = sqlx::PgPool;

/// How long a transaction may hold its locks while nothing is asked in it. A process that is frozen, or cut off from the
/// network, in the middle of an append keeps the others from appending to the same partitions for so long.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// How a pool is set up.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// `postgres://…` of the platform's database.
    pub url: String,
    /// Connections kept open (default 2).
    pub min_connections: u32,
    /// Connections at most (default 10).
    pub max_connections: u32,
    /// How long a caller waits for a free connection (default 5 s).
    pub acquire_timeout: Duration,
    /// How long one statement may take (default 30 s).
    pub statement_timeout: Duration,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

impl PoolSettings {
    /// The defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            min_connections: 2,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            application_name: "realtime".to_owned(),
        }
    }
}

/// A pool that connects when it is first used, so that an unreachable database does not stop the start.
///
/// # Errors
/// [`DatabaseError::Setting`] where the URL is none.
pub fn connect_lazy(settings: &PoolSettings) -> Result<Pool, DatabaseError> {
    let options: PgConnectOptions = settings
        .url
        .parse()
        .map_err(|_| DatabaseError::Setting("the database URL cannot be read".to_owned()))?;
    let options = options.application_name(&settings.application_name).options([
        ("statement_timeout", settings.statement_timeout.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION.as_millis().to_string()),
    ]);
    Ok(PgPoolOptions::new()
        .min_connections(settings.min_connections.min(settings.max_connections))
        .max_connections(settings.max_connections.max(1))
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(Some(Duration::from_secs(300)))
        .connect_lazy_with(options))
}

/// A pool of one connection beside `pool`, to the same database; whoever wants it waits for `acquire_timeout` at most. For
/// those who listen, and for those who write one transaction after the other: they have the same server process each time,
/// with its plans and pages at hand, where a pool of many goes round all of its own.
pub fn of_one(pool: &Pool, acquire_timeout: Duration) -> Pool {
    PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(acquire_timeout)
        .connect_lazy_with((*pool.connect_options()).clone())
}

/// Whether the database answers, within `limit`.
///
/// # Errors
/// [`DatabaseError::Unavailable`] where it does not.
pub async fn ping(pool: &Pool, limit: Duration) -> Result<(), DatabaseError> {
    let answer = tokio::time::timeout(limit, sqlx::query("select 1").execute(pool)).await;
    answer.map_err(|_| DatabaseError::Unavailable(sqlx::Error::PoolTimedOut))??;
    Ok(())
}
