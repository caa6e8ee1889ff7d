//! A server that belongs to this process.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::control::{FAST_SHUTDOWN_LIMIT, IMMEDIATE_SHUTDOWN_LIMIT, LOOK_EVERY, clear_leftover, kill_all};
use crate::directory::Directory;
use crate::error::{Doing, LocalPostgresError};
use crate::identity::{User, server_user};
use crate::process::{OwnedProcess, children, server_command};
use crate::settings::{Durability, Options};
use crate::{binaries, cluster, pidfile};

/// Includes crash recovery of a few gigabytes of log.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);

/// How long connecting and one statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// Free ports may be taken by others between our look and the server's start.
pub(crate) const START_ATTEMPTS: u32 = 5;

/// A running private server. It ends with [`LocalPostgres::stop`], when it is dropped, and on Linux also
/// when this process is killed; elsewhere the next start in the same directory ends it.
pub struct LocalPostgres {
    directory: Directory,
    connection: Address,
    process: OwnedProcess,
    _lock: File,
}

/// How to reach a server.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Address {
    pub(crate) fn url(&self, database: &str) -> String {
        // Names and passwords come from us and from code: letters, digits and underscores.
        format!("postgresql://{}:{}@127.0.0.1:{}/{database}", self.user, self.password, self.port)
    }

    /// Connects, within the time limit.
    pub(crate) async fn connect(&self, database: &str) -> Result<PgConnection, LocalPostgresError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(&self.user)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging();
        within(options.connect()).await
    }

    /// Makes `database` unless it exists.
    async fn ensure_database(&self, database: &str) -> Result<(), LocalPostgresError> {
        let mut connection = self.connect("postgres").await?;
        let exists: bool = within(
            sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(database)
                .fetch_one(&mut connection),
        )
        .await?;
        if !exists {
            let name = database.replace('"', "\"\"");
            let statement = sqlx::AssertSqlSafe(format!("create database \"{name}\""));
            within(sqlx::raw_sql(statement).execute(&mut connection)).await?;
        }
        within(connection.close()).await
    }
}

pub(crate) async fn within<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, LocalPostgresError> {
    match tokio::time::timeout(STATEMENT_LIMIT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
    }
}

impl LocalPostgres {
    /// Starts the server over `options.data_dir`, making it on first use, and waits until it accepts
    /// connections and `options.database` exists. A server that an earlier, killed process left there is
    /// ended first.
    ///
    /// Cancelling ends the server again.
    ///
    /// # Errors
    ///
    /// No programs, no right, a directory in use, or a server that does not start: see
    /// [`LocalPostgresError`].
    pub async fn start(options: Options) -> Result<Self, LocalPostgresError> {
        let bin = binaries::find()?;
        let user = server_user()?;
        let directory = Directory::prepare(&options.data_dir, user)?;
        let lock = directory.lock()?;
        clear_leftover(&directory.cluster()).await?;
        cluster::ensure(&directory, &bin, user, &options).await?;

        let start = Start { bin: &bin, user, directory: &directory, options: &options };
        let (process, port) = start.run().await?;
        let connection = Address { port, user: options.user.clone(), password: directory.password()? };
        let server = Self { directory, connection, process, _lock: lock };
        server.connection.ensure_database(&options.database).await?;
        Ok(server)
    }

    /// The connection string of one of its databases, password included.
    pub fn url(&self, database: &str) -> String {
        self.connection.url(database)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.connection.port
    }

    /// The process id of the server's main process.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Where its files are: `data_dir`, or a place in `/var/lib` if the server's user cannot enter that.
    pub fn directory(&self) -> &Path {
        self.directory.root()
    }

    /// The server's log, for people.
    pub fn log_file(&self) -> PathBuf {
        self.directory.root().join("server.log")
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Ends the server in order: clients are disconnected, data is written out.
    ///
    /// # Errors
    ///
    /// [`LocalPostgresError::Leftover`] if it does not end even when killed.
    pub async fn stop(mut self) -> Result<(), LocalPostgresError> {
        self.process.signal(Signal::INT);
        if self.process.wait_for_end(FAST_SHUTDOWN_LIMIT).await {
            return Ok(());
        }
        self.process.signal(Signal::QUIT);
        if self.process.wait_for_end(IMMEDIATE_SHUTDOWN_LIMIT).await {
            return Ok(());
        }
        self.kill().await
    }

    /// Kills the whole server at once, as a power cut would, for drills. The data directory can be
    /// started again, and recovers.
    ///
    /// # Errors
    ///
    /// [`LocalPostgresError::Leftover`] if the process does not end.
    pub async fn kill_hard(mut self) -> Result<(), LocalPostgresError> {
        self.kill().await
    }

    async fn kill(&mut self) -> Result<(), LocalPostgresError> {
        let backends = children(self.process.pid());
        self.process.signal(Signal::KILL);
        kill_all(&backends).await;
        if self.process.wait_for_end(IMMEDIATE_SHUTDOWN_LIMIT).await {
            return Ok(());
        }
        Err(LocalPostgresError::Leftover(self.process.pid()))
    }
}

/// What ends a server whose owner is gone: what is durable is written out first.
fn death_signal(durability: Durability) -> Signal {
    match durability {
        Durability::Durable => Signal::INT,
        Durability::Throwaway => Signal::QUIT,
    }
}

/// One start of a cluster that exists.
struct Start<'a> {
    bin: &'a Path,
    user: Option<User>,
    directory: &'a Directory,
    options: &'a Options,
}

impl Start<'_> {
    /// Starts the server on the port asked for, the last one, or any free one.
    async fn run(&self) -> Result<(OwnedProcess, u16), LocalPostgresError> {
        let mut attempt = 1;
        loop {
            let port = match (self.options.port, attempt) {
                (Some(port), _) => port,
                (None, 1) => {
                    self.directory.last_port().filter(|port| is_free(*port)).map_or_else(free_port, Ok)?
                }
                (None, _) => free_port()?,
            };
            match self.on_port(port).await {
                Ok(process) => {
                    self.directory.remember_port(port)?;
                    return Ok((process, port));
                }
                Err(LocalPostgresError::Exited(log)) if attempt < START_ATTEMPTS && is_passing(&log) => {
                    tracing::debug!(attempt, "postgres did not start, trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn on_port(&self, port: u16) -> Result<OwnedProcess, LocalPostgresError> {
        cluster::configure(self.directory, self.user, self.options, port)?;
        let log = self.directory.log()?;
        let log_start = log.metadata().doing(|| "look at the server's log".to_owned())?.len();
        let cluster = self.directory.cluster();
        let command = server_command(self.bin, &cluster, &log, self.user)?;
        let process = OwnedProcess::spawn(command, death_signal(self.options.durability)).await?;
        wait_until_ready(&process, &cluster, self.directory, log_start).await?;
        Ok(process)
    }
}

/// Whether the log of a failed start names something that passes: a port that somebody else just took,
/// or the memory of a killed server whose last backends are still ending.
pub(crate) fn is_passing(log: &str) -> bool {
    ["Address already in use", "shared memory block", "could not create any TCP/IP sockets"]
        .iter()
        .any(|reason| log.contains(reason))
}

async fn wait_until_ready(
    process: &OwnedProcess,
    cluster: &Path,
    directory: &Directory,
    log_start: u64,
) -> Result<(), LocalPostgresError> {
    let deadline = Instant::now() + START_LIMIT;
    while !pidfile::read(cluster).is_some_and(|file| file.ready && file.pid == process.pid()) {
        if process.has_ended() {
            return Err(LocalPostgresError::Exited(directory.log_tail(log_start)));
        }
        if Instant::now() >= deadline {
            process.signal(Signal::QUIT);
            let log = directory.log_tail(log_start);
            return Err(LocalPostgresError::TimedOut { seconds: START_LIMIT.as_secs(), log });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that nobody listens on at the moment.
pub(crate) fn free_port() -> Result<u16, LocalPostgresError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .doing(|| "find a free port".to_owned())
}
