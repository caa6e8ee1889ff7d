//! One database session that lives as long as this process: leases name it, so that the others notice its death at
//! once.

use database::{
    Pool,
    tables::leases::{LeaseSession, session},
};
use sqlx::{Connection, PgConnection};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the session is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keeps a session open until `stop` and tells `told` which; `None` while there is none.
pub(crate) async fn keep(pool: Pool, told: watch::Sender<Option<LeaseSession>>, stop: CancellationToken) {
    let mut held: Option<PgConnection> = None;
    while !stop.is_cancelled() {
        let alive = match &mut held {
            Some(connection) => matches!(tokio::time::timeout(PATIENCE, connection.ping()).await, Ok(Ok(()))),
            None => false,
        };
        if !alive {
            held = open(&pool, &told).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn open(pool: &Pool, told: &watch::Sender<Option<LeaseSession>>) -> Option<PgConnection> {
    // Not one of the pool's: those come and go.
    let opening = async {
        let mut connection = PgConnection::connect_with(&pool.connect_options()).await.ok()?;
        let key = session(&mut connection).await.ok()?;
        Some((connection, key))
    };
    match tokio::time::timeout(PATIENCE, opening).await.ok().flatten() {
        Some((connection, key)) => {
            told.send_replace(Some(key));
            Some(connection)
        }
        None => {
            told.send_replace(None);
            None
        }
    }
}
