//! Making the outbox in a database.

use crate::{source::connect_options, table, trouble::OutboxError};
use sqlx::{ConnectOptions, Connection};
use std::time::Duration;

/// What makes the table, its indexes and its trigger; the same that the documentation shows.
pub const INSTALL_SQL: &str = include_str!("install.sql");

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longer than it takes, unless somebody holds the table.
const INSTALL_LIMIT: Duration = Duration::from_secs(30);

/// Where an outbox was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The database.
    pub database: String,
    /// Rows that wait there, counted up to 100,000.
    pub pending: i64,
}

/// Makes the outbox in the database at `url`, whole or not at all. One that is there already is brought up to date.
///
/// # Errors
/// A database that does not answer, or refuses; a table of that name that is no outbox.
pub async fn install(url: &str) -> Result<Installed, OutboxError> {
    let options = connect_options(url)?;
    let connecting = tokio::time::timeout(CONNECT_LIMIT, options.connect());
    let mut connection = connecting.await.map_err(|_| OutboxError::TooSlow(CONNECT_LIMIT))??;
    let work = async {
        let mut tx = connection.begin().await?;
        sqlx::raw_sql("set local lock_timeout = '5s'").execute(&mut *tx).await?;
        sqlx::raw_sql(INSTALL_SQL).execute(&mut *tx).await?;
        // A table of that name that was there before may be another.
        table::claim(&mut tx, table::Form::Target, 0, &[]).await?;
        let backlog = table::backlog(&mut *tx).await?;
        let database = sqlx::query_scalar("select current_database()::text").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        connection.close().await?;
        Ok(Installed { database, pending: backlog.pending })
    };
    tokio::time::timeout(INSTALL_LIMIT, work).await.map_err(|_| OutboxError::TooSlow(INSTALL_LIMIT))?
}
