//! A target database from outside the stream: who it is, its slot, its publication.
//!
//! Owns every statement that is sent to a customer's database. Nothing here waits long: statements end after 10
//! seconds, and a lock is waited for one second at most, since the customer's own queries would queue behind the
//! wait.

pub(crate) mod chunk;
pub(crate) mod inspect;
pub(crate) mod publication;
pub(crate) mod slot;
mod url;

pub use url::TargetUrl;

use crate::{trouble::Trouble, values::OwnTypes};
use outbound::postgres::Tunnel;
use sha2::{Digest, Sha256};
use sqlx::{ConnectOptions, PgConnection};
use std::{
    future::Future,
    ops::{Deref, DerefMut},
    time::Duration,
};

/// How long one statement may take.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which database it is, whatever its URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The cluster's system identifier.
    pub system: String,
    /// The database's name.
    pub database: String,
}

/// What belongs to this installation in one target: slot names are cluster-wide, so that database and installation
/// are part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
}

impl Names {
    /// The names under `prefix` (`CDC_SLOT_NAME`) for this installation and database. At most 63 bytes.
    pub fn new(prefix: &str, installation: &str, database: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update((installation.len() as u64).to_be_bytes());
        hash.update(installation);
        hash.update(database);
        let hash = &hex::encode(hash.finalize())[..10];
        let end = (0..=prefix.len().min(52)).rev().find(|end| prefix.is_char_boundary(*end)).unwrap_or(0);
        Self { slot: format!("{}_{hash}", &prefix[..end]), publication: format!("realtime_cdc_pub_{hash}") }
    }
}

/// An ordinary connection, with the way that it takes.
pub(crate) struct Connection {
    connection: PgConnection,
    _tunnel: Option<Tunnel>,
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// Opens an ordinary connection.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn connect(url: &TargetUrl) -> Result<Connection, Trouble> {
    let tunnel = url.tunnel().await.map_err(|error| Trouble::outbound(&error))?;
    let options = url.options(STATEMENT_TIMEOUT, tunnel.as_ref());
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => Ok(Connection { connection, _tunnel: tunnel }),
        Ok(Err(error)) => Err(Trouble::through(tunnel.as_ref(), error.into())),
        Err(_) => Err(Trouble::unreachable("no answer in time")),
    }
}

/// Waits for `work` at most twice [`STATEMENT_TIMEOUT`]: a server that is gone does not time statements out.
pub(crate) async fn limited<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    match tokio::time::timeout(STATEMENT_TIMEOUT * 2, work).await {
        Ok(result) => result,
        Err(_) => Err(Trouble::unreachable("no answer in time")),
    }
}

/// Asks a target who it is.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn identify(url: &TargetUrl) -> Result<Identity, Trouble> {
    limited(async {
        let mut connection = connect(url).await?;
        identity(&mut connection).await
    })
    .await
}

/// Who the target behind an open connection is.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn identity(connection: &mut PgConnection) -> Result<Identity, Trouble> {
    let sql = "select system_identifier::text, current_database()::text from pg_control_system()";
    let (system, database) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(Identity { system, database })
}

/// Checks what cannot be mended from here.
///
/// # Errors
/// [`Trouble::wal_level`].
pub(crate) async fn check_wal_level(connection: &mut PgConnection) -> Result<(), Trouble> {
    let level: String =
        sqlx::query_scalar("select current_setting('wal_level')").fetch_one(connection).await?;
    if level == "logical" { Ok(()) } else { Err(Trouble::wal_level(&level)) }
}

/// The database's own types: domains and arrays with what they stand for.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn own_types(connection: &mut PgConnection) -> Result<OwnTypes, Trouble> {
    let sql = "
        select oid::bigint, case when typtype = 'd' then typbasetype else 0 end::bigint,
            case when typcategory = 'A' then typelem else 0 end::bigint
        from pg_type where oid >= 16384 and (typtype = 'd' or typcategory = 'A'
            or oid = (select max(oid) from pg_type))";
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(connection).await?;
    let oid = |n: i64| u32::try_from(n).unwrap_or(0);
    Ok(OwnTypes::new(&rows.into_iter().map(|(a, b, c)| (oid(a), oid(b), oid(c))).collect::<Vec<_>>()))
}

/// Writes a transactional message to the target's log, so that the slot moves past what other databases wrote.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn heartbeat(connection: &mut PgConnection) -> Result<(), Trouble> {
    sqlx::query("select pg_logical_emit_message(true, 'realtime_cdc_heartbeat', '')")
        .execute(connection)
        .await?;
    Ok(())
}

/// A name as SQL wants it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_installation_and_database() {
        let names = Names::new("realtime_cdc_slot", "one", "shop");
        assert!(names.slot.starts_with("realtime_cdc_slot_") && names.slot.len() == 28);
        assert_ne!(names, Names::new("realtime_cdc_slot", "two", "shop"));
        assert_ne!(names.slot, Names::new("realtime_cdc_slot", "one", "other").slot);
        assert_eq!(Names::new(&"x".repeat(70), "one", "shop").slot.len(), 63);
    }
}
