//! For who hands the log on as a whole: where a group has something to read, and when to look again.

use super::{PARTITIONS, failed, notify, within};
use event_log::LogError;
use sqlx::{PgPool, Row, postgres::PgListener};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The partitions in which `group` has entries to read.
///
/// # Errors
/// As reading does.
pub async fn unread(pool: &PgPool, group: &str) -> Result<Vec<u16>, LogError> {
    let query = sqlx::query(
        "select g.partition from event_log_groups g join event_log_partitions p using (partition) \
         where g.name = $1 and p.sequence > g.sequence order by g.partition",
    )
    .bind(group)
    .fetch_all(pool);
    let rows = within(TIMEOUT, query).await?;
    rows.iter().map(|row| row.try_get::<i16, _>(0).map(i16::unsigned_abs).map_err(failed)).collect()
}

/// Ends `group`: it no longer keeps entries from being removed.
///
/// # Errors
/// As reading does.
pub async fn end_group(pool: &PgPool, group: &str) -> Result<(), LogError> {
    let query = sqlx::query("delete from event_log_groups where name = $1").bind(group).execute(pool);
    within(TIMEOUT, query).await.map(|_| ())
}

/// Tells when the log has grown. What was missed while the connection was away is not told: look now and then.
pub struct Growth {
    listener: PgListener,
}

impl Growth {
    /// Begins to listen, over a connection of `pool`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn listen(pool: &PgPool) -> Result<Self, LogError> {
        let listen = async {
            let mut listener = PgListener::connect_with(pool).await?;
            let channels: Vec<String> = (0..PARTITIONS).map(notify::channel).collect();
            listener.listen_all(channels.iter().map(String::as_str)).await?;
            Ok(listener)
        };
        within(TIMEOUT, listen).await.map(|listener| Self { listener })
    }

    /// Resolves when the log may have grown. Cancelling loses nothing that a later look would not find.
    ///
    /// # Errors
    /// Where the connection is lost.
    pub async fn grown(&mut self) -> Result<(), LogError> {
        self.listener.recv().await.map(|_| ()).map_err(failed)
    }
}
