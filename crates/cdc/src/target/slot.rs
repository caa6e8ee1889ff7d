//! The replication slot: made, found, taken over, given up.

use super::STATEMENT_TIMEOUT;
use crate::trouble::Trouble;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use std::time::Duration;

/// Making a slot waits for every transaction that is open; longer than this is said and tried again.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often dropping a slot is tried that somebody takes again.
const DROPS: usize = 3;

/// A slot as the target shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Who reads it.
    pub active_pid: Option<i32>,
    /// Whether the server has thrown away what it would read.
    pub lost: bool,
    /// Up to where it was confirmed.
    pub confirmed: Option<String>,
}

/// The slot `name`; `None` where there is none.
///
/// # Errors
/// `SLOT_FOREIGN` where something else goes by this name.
pub(crate) async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<Slot>, Trouble> {
    let sql = "
        select coalesce(plugin, '') = 'pgoutput' and coalesce(database, '') = current_database() as ours,
            active_pid, coalesce(wal_status, '') = 'lost' as lost, confirmed_flush_lsn::text as confirmed
        from pg_replication_slots where slot_name = $1";
    let Some(row) = sqlx::query(sql).bind(name).fetch_optional(connection).await? else { return Ok(None) };
    if !row.try_get::<bool, _>("ours")? {
        return Err(Trouble::new(
            "SLOT_FOREIGN",
            format!("a slot named {name} exists that is not ours (another database or output plugin)"),
            format!("select pg_drop_replication_slot('{name}'); or set another CDC_SLOT_NAME"),
        ));
    }
    Ok(Some(Slot {
        active_pid: row.try_get("active_pid")?,
        lost: row.try_get("lost")?,
        confirmed: row.try_get("confirmed")?,
    }))
}

/// How a slot stands that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Up to where it was confirmed: what was committed from there on is read again.
    pub confirmed: Option<u64>,
    /// The end of the server's log; `None` where the server replays another's.
    pub end: Option<u64>,
}

/// How the slot `name` stands; `None` where there is none.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn standing(connection: &mut PgConnection, name: &str) -> Result<Option<Standing>, Trouble> {
    let sql = "
        select pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint as confirmed,
            case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint end as here
        from pg_replication_slots where slot_name = $1";
    let row: Option<(Option<i64>, Option<i64>)> =
        sqlx::query_as(sql).bind(name).fetch_optional(connection).await?;
    let lsn = |lsn: i64| lsn.cast_unsigned();
    Ok(row.map(|(confirmed, end)| Standing { confirmed: confirmed.map(lsn), end: end.map(lsn) }))
}

/// Makes the slot; answers from where it reads.
///
/// # Errors
/// `SLOT_WAITS` while transactions are open that began before; privileges and limits as the server says.
pub(crate) async fn create(connection: &mut PgConnection, name: &str) -> Result<String, Trouble> {
    let milliseconds = CREATE_TIMEOUT.as_millis();
    sqlx::raw_sql(AssertSqlSafe(format!("set statement_timeout = {milliseconds}")))
        .execute(&mut *connection)
        .await?;
    let making =
        sqlx::query_scalar("select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')")
            .bind(name)
            .fetch_one(connection);
    // A server that is gone does not time statements out.
    let Ok(made) = tokio::time::timeout(CREATE_TIMEOUT + STATEMENT_TIMEOUT, making).await else {
        return Err(Trouble::unreachable("no answer in time"));
    };
    match made {
        Ok(lsn) => Ok(lsn),
        Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("57014") => Err(Trouble::new(
            "SLOT_WAITS",
            "making the replication slot waits for transactions that are open",
            "end long transactions (select * from pg_stat_activity order by xact_start); the reader keeps trying",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Drops the slot where it is there, ending its reader.
///
/// # Errors
/// `SLOT_IN_USE` where the reader may not be ended.
pub(crate) async fn drop(connection: &mut PgConnection, name: &str) -> Result<(), Trouble> {
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
    for _ in 0..DROPS {
        release(connection, name).await?;
        match sqlx::query(sql).bind(name).execute(&mut *connection).await {
            Ok(_) => return Ok(()),
            // Somebody has taken it since it was released.
            Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("55006") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Trouble::slot_in_use())
}

/// Ends whoever reads the slot: an earlier leader that is gone or has been overtaken. Call it only as the leader.
///
/// # Errors
/// `SLOT_IN_USE` where it may not be ended or does not end within 3 seconds.
pub(crate) async fn release(connection: &mut PgConnection, name: &str) -> Result<(), Trouble> {
    for attempt in 0..30 {
        let Some(Slot { active_pid: Some(pid), .. }) = find(connection, name).await? else { return Ok(()) };
        if attempt % 10 == 0 {
            let ended =
                sqlx::query("select pg_terminate_backend($1)").bind(pid).execute(&mut *connection).await;
            if ended.is_err() {
                return Err(Trouble::slot_in_use());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(Trouble::slot_in_use())
}
