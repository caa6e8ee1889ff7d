//! What the platform's CDC reader is compared with: `pg_recvlogical` writing to `/dev/null`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::process::Command;
use tokio::time::sleep;

use crate::child::{self, Process};
use crate::procfs;
use crate::rows::{Table, execute};

const LIMIT: Duration = Duration::from_secs(180);

/// What `pg_recvlogical` needed for the rows.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Received {
    /// Rows.
    pub rows: u64,
    /// Rows a second, from its start until the server had sent all.
    pub rows_per_second: f64,
    /// Its CPU time a row, in microseconds.
    pub cpu_us_per_row: f64,
}

/// A slot and a publication of one table, waiting to be read.
#[derive(Debug)]
pub struct Slot {
    name: String,
}

impl Slot {
    /// Creates both; what is committed from now on is kept for it.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn create(database: &mut PgConnection, table: &Table) -> Result<Self> {
        let name = table.0.clone();
        execute(database, format!("create publication {name} for table {name}")).await?;
        execute(database, format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')")).await?;
        Ok(Self { name })
    }

    /// Reads all that waits, `rows` rows.
    ///
    /// # Errors
    /// `pg_recvlogical` is missing, ends, or is not done in time.
    #[allow(clippy::cast_precision_loss)] // row counts are far below 2^52
    pub async fn receive(&self, database: &mut PgConnection, url: &str, rows: u64) -> Result<Received> {
        let (end,): (String,) =
            sqlx::query_as("select pg_current_wal_lsn()::text").fetch_one(&mut *database).await?;
        let mut process = Process::start("pg_recvlogical", self.command(url), Duration::ZERO)?;
        let started = Instant::now();
        let sent = format!(
            "select coalesce(bool_or(sent_lsn >= '{end}'::pg_lsn), false) from pg_stat_replication r \
             join pg_replication_slots s on s.active_pid = r.pid where s.slot_name = '{}'",
            self.name
        );
        wait_until(database, &sent, &mut process).await?;
        let seconds = started.elapsed().as_secs_f64();
        let confirmed = format!(
            "select coalesce(bool_or(confirmed_flush_lsn >= '{end}'::pg_lsn), false) \
             from pg_replication_slots where slot_name = '{}'",
            self.name
        );
        wait_until(database, &confirmed, &mut process).await?;
        let cpu = procfs::cpu_time(process.pid())?;
        Ok(Received {
            rows,
            rows_per_second: rows as f64 / seconds,
            cpu_us_per_row: cpu.as_secs_f64() * 1e6 / rows.max(1) as f64,
        })
    }

    fn command(&self, url: &str) -> Command {
        let mut command = child::command(client_program("pg_recvlogical"));
        command.args(["--dbname", url, "--slot", &self.name, "--start", "--file", "/dev/null"]);
        command.args(["--status-interval", "1", "--option", "proto_version=1"]);
        command.args(["--option", &format!("publication_names={}", self.name)]);
        command
    }

    /// Drops both.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn drop(self, database: &mut PgConnection) -> Result<()> {
        let name = &self.name;
        // A walsender that was just killed may hold the slot for a moment.
        let until = Instant::now() + Duration::from_secs(10);
        while let Err(error) = execute(database, format!("select pg_drop_replication_slot('{name}')")).await {
            if Instant::now() > until {
                return Err(error);
            }
            sleep(Duration::from_millis(100)).await;
        }
        execute(database, format!("drop publication {name}")).await
    }
}

async fn wait_until(database: &mut PgConnection, question: &str, process: &mut Process) -> Result<()> {
    let until = Instant::now() + LIMIT;
    loop {
        let (done,): (bool,) = sqlx::query_as(AssertSqlSafe(question)).fetch_one(&mut *database).await?;
        if done {
            return Ok(());
        }
        if !process.is_alive() {
            return Err(process.complaint("ended early"));
        }
        if Instant::now() > until {
            bail!("pg_recvlogical was not done after {} s", LIMIT.as_secs());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A program of PostgreSQL's clients: the binary beside the server's, where `pg_config` tells; else whatever
/// is on the path. (Debian puts a script on the path, which replaces itself by the binary.)
pub fn client_program(name: &str) -> PathBuf {
    let output = std::process::Command::new("pg_config").arg("--bindir").output();
    let folder = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let folder = folder.map(|folder| PathBuf::from(folder.trim()));
    let folders = folder.into_iter().chain(local_postgres::find_binaries().ok());
    let mut found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| PathBuf::from(name))
}

/// Fills a table and reads it with `pg_recvlogical` alone: no platform needed.
///
/// # Errors
/// Database or `pg_recvlogical` fail.
pub async fn alone(url: &str, rows: u64, batch: u64) -> Result<Received> {
    let mut database = crate::rows::connect(url).await?;
    let table = Table::create(&mut database, "recvlogical").await?;
    let slot = Slot::create(&mut database, &table).await?;
    let received = fill_and_receive(&mut database, url, &table, &slot, rows, batch).await;
    slot.drop(&mut database).await.context("dropping the slot")?;
    table.drop(&mut database).await?;
    received
}

async fn fill_and_receive(
    database: &mut PgConnection,
    url: &str,
    table: &Table,
    slot: &Slot,
    rows: u64,
    batch: u64,
) -> Result<Received> {
    table.fill(database, rows, batch).await?;
    slot.receive(database, url, rows).await
}
