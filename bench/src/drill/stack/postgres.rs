//! The private database server: the platform's database and the application's, durable, and killed like the rest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use local_postgres::{LocalPostgres, Options};

use crate::rows::{connect, execute};

const PLATFORM_DATABASE: &str = "realtime";
const TARGET_DATABASE: &str = "drill";
/// The password as it is, over the loopback interface. Deriving a key from it takes a client of a debug build so long
/// that on a busy machine, when all connect anew at once, none is through before it gives up.
const ACCESS: &str = "host all all 127.0.0.1/32 password\nhost replication all 127.0.0.1/32 password\n";
/// How long the server may take to end when it is dropped.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Whether the server waits until what it writes is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// As in production.
    Awaited,
    /// What is written survives the death of every process, but not that of the machine.
    NotAwaited,
}

/// The server. Dropping it ends it.
pub struct Postgres {
    server: Option<LocalPostgres>,
    options: Options,
    platform_url: String,
    target_url: String,
}

impl Postgres {
    /// Starts it in `directory` with both databases.
    ///
    /// # Errors
    /// No Postgres on this machine, or it does not start.
    pub async fn start(directory: &Path, port: u16, disk: Disk) -> Result<Self> {
        let access = directory.join("pg_hba.conf");
        std::fs::write(&access, ACCESS)?;
        let mut settings = vec![("hba_file".to_owned(), access.display().to_string())];
        if disk == Disk::NotAwaited {
            settings.push(("fsync".to_owned(), "off".to_owned()));
        }
        let options = Options {
            database: PLATFORM_DATABASE.to_owned(),
            port: Some(port),
            settings,
            ..Options::new(directory.join("postgres"))
        };
        let server = LocalPostgres::start(options.clone()).await?;
        let (platform_url, target_url) = (server.url(PLATFORM_DATABASE), server.url(TARGET_DATABASE));
        let postgres = Self { server: Some(server), options, platform_url, target_url };
        let mut connection = connect(&postgres.platform_url).await?;
        execute(&mut connection, format!("create database {TARGET_DATABASE}")).await?;
        Ok(postgres)
    }

    /// The platform's own database.
    pub fn platform_url(&self) -> &str {
        &self.platform_url
    }

    /// The database whose rows become events.
    pub fn target_url(&self) -> &str {
        &self.target_url
    }

    /// Kills the server and all its processes at once.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&mut self) -> Result<()> {
        let server = self.server.take().context("the database server runs")?;
        Ok(server.kill_hard().await?)
    }

    /// Starts it again over the same data, which it recovers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.server = Some(LocalPostgres::start(self.options.clone()).await?);
        Ok(())
    }

    /// Whether it ended by itself.
    pub fn has_ended(&self) -> bool {
        self.server.as_ref().is_some_and(LocalPostgres::has_ended)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let process = PathBuf::from(format!("/proc/{}/stat", server.pid()));
        drop(server);
        // Its directory is removed next, and must not be written to any more.
        let until = Instant::now() + END_LIMIT;
        while runs(&process) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn runs(stat: &Path) -> bool {
    std::fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z"))
}
