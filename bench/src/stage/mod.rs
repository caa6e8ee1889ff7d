//! What the measurements of several services run on: a PostgreSQL, a Redis where there is to be one, and
//! backends over them.
//!
//! Owns the processes and how they are configured; all of them end with the stage. It knows nothing of
//! what is measured.

mod redis;
mod secrets;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use local_postgres::LocalPostgres;

pub use redis::{Persistence, Redis};
pub use secrets::Secrets;

use crate::child::{self, Process};
use crate::host::Placement;
use crate::link::Endpoint;
use crate::platform::LIMITS;
use crate::procfs;
use crate::rows::Rest;
use crate::target::free_port;

const DATABASE: &str = "realtime";
/// A first start runs the migrations.
const START_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A killed process is gone as soon as the kernel has cleaned up after it.
const END_LIMIT: Duration = Duration::from_secs(10);
const STOP_GRACE: Duration = Duration::from_secs(30);

/// What stands behind the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Redis and PostgreSQL.
    Redis,
    /// PostgreSQL alone.
    Postgres,
}

impl Mode {
    /// Its name in reports.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// Which program, over what.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The backend's program, of which the measurements of several services start one or two
    #[arg(long, env = "BENCH_BACKEND", default_value = "target/release/backend")]
    pub backend: PathBuf,
    /// What Redis keeps over its death
    #[arg(long, value_enum, default_value = "everysec")]
    pub persistence: Persistence,
}

impl Options {
    /// Whether the program is built.
    pub fn is_available(&self) -> bool {
        self.backend.is_file()
    }
}

/// The cores that a backend may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// One worker thread, on a core that the load generator leaves alone.
    Own,
    /// All, as in life.
    All,
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    process: Process,
    endpoint: Endpoint,
}

impl Backend {
    /// Where it serves, with an administrator's token.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Makes it stand still, as if its machine hung.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// It still runs after a while.
    pub async fn kill(self) -> Result<()> {
        self.process.kill();
        self.process.ended(END_LIMIT).await?;
        Ok(())
    }
}

/// Backends and what they need. Dropping it ends them all, the backends first.
pub struct Stage {
    backends: Vec<Backend>,
    redis: Option<Redis>,
    postgres: Option<LocalPostgres>,
    secrets: Secrets,
    cores: Cores,
    program: PathBuf,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Starts everything and waits until all backends serve. PostgreSQL is as durable as in production.
    ///
    /// # Errors
    /// A program is not built or not installed, or does not serve in time.
    pub async fn start(options: &Options, mode: Mode, backends: usize, cores: Cores) -> Result<Self> {
        if !options.is_available() {
            bail!("{} is not built: `cargo build --release -p backend`", options.backend.display());
        }
        // Readable for others: started by root, the database server runs as another user.
        let directory = tempfile::Builder::new()
            .prefix("bench-stage-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let postgres = local_postgres::Options {
            database: DATABASE.to_owned(),
            ..local_postgres::Options::new(directory.path().join("postgres"))
        };
        let postgres = Some(LocalPostgres::start(postgres).await?);
        let redis = match mode {
            Mode::Redis => Some(Redis::start(options.persistence).await?),
            Mode::Postgres => None,
        };
        let program = std::path::absolute(&options.backend)?;
        let secrets = Secrets::generate()?;
        let mut stage = Self { backends: Vec::new(), redis, postgres, secrets, cores, program, directory };
        for _ in 0..backends {
            stage.start_backend().await?;
        }
        Ok(stage)
    }

    /// Starts one more backend and waits until it serves.
    ///
    /// # Errors
    /// It does not serve in time.
    pub async fn start_backend(&mut self) -> Result<()> {
        let port = free_port()?;
        let mut command = child::command(&self.program);
        // In a directory without an `.env`, and with nothing of the caller's configuration.
        command.current_dir(self.directory.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(LIMITS).envs(self.secrets.environment());
        command.envs([("NODE_ENV", "development"), ("HOST", "127.0.0.1"), ("LOG_LEVEL", "warn")]);
        command.env("PORT", port.to_string()).env("DATABASE_URL", self.database_url());
        if let Some(redis) = &self.redis {
            command.env("REDIS_URL", redis.url());
        }
        if self.cores == Cores::Own {
            command.env("TOKIO_WORKER_THREADS", "1");
        }
        let mut process = Process::start("the backend", command, STOP_GRACE)?;
        process.discard_output();
        let token = Some(self.secrets.token("bench")?);
        let endpoint = Endpoint { address: format!("127.0.0.1:{port}"), token };
        let rest = Rest::new(&endpoint)?;
        let until = Instant::now() + START_LIMIT;
        while let Err(error) = rest.get("/ready").await {
            if !process.is_alive() || Instant::now() > until {
                return Err(process.complaint(&format!("is not ready: {error:#}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.backends.push(Backend { process, endpoint });
        Ok(())
    }

    /// The backends, in the order in which they were started.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The first backend.
    ///
    /// # Panics
    /// Where the stage was started without one.
    pub fn backend(&self) -> &Backend {
        self.backends.first().expect("a stage that is measured has a backend")
    }

    /// A backend's address with the token of a subject of its own.
    ///
    /// # Errors
    /// The clock stands before 1970.
    pub fn endpoint_as(&self, address: &str, subject: &str) -> Result<Endpoint> {
        Ok(Endpoint { address: address.to_owned(), token: Some(self.secrets.token(subject)?) })
    }

    /// Takes the first backend out, to be killed.
    ///
    /// # Errors
    /// There is none.
    pub fn take_backend(&mut self) -> Result<Backend> {
        if self.backends.is_empty() { bail!("there is no backend left") } else { Ok(self.backends.remove(0)) }
    }

    /// Ends all backends in order, and leaves the rest.
    pub fn stop_backends(&mut self) {
        self.backends.clear();
    }

    /// Its Redis.
    ///
    /// # Errors
    /// It has none.
    pub fn redis(&self) -> Result<&Redis> {
        self.redis.as_ref().context("there is no Redis in this mode")
    }

    /// The database of the platform.
    pub fn database_url(&self) -> String {
        self.postgres.as_ref().map_or(String::new(), |server| server.url(DATABASE))
    }

    /// The process ids of all backends.
    pub fn pids(&self) -> Vec<u32> {
        self.backends.iter().map(Backend::pid).collect()
    }

    /// Processes whose CPU is reported beside the backends': PostgreSQL's and Redis'.
    pub fn beside(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.redis.iter().map(Redis::pid).collect();
        if let Some(server) = &self.postgres {
            pids.extend(server_processes(server));
        }
        pids
    }

    /// Gives the backends their core, where they are to have one, for as long as the placement lives.
    pub fn place(&self) -> Placement {
        match self.cores {
            Cores::Own => Placement::separate(&self.pids()),
            Cores::All => Placement::shared(),
        }
    }

    /// Adds to an error what the backends last logged.
    ///
    /// # Errors
    /// The outcome's.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            let logs =
                self.backends.iter().map(|backend| backend.process.complaint("logged last:").to_string());
            anyhow::anyhow!("{error:#}\n{}", logs.collect::<Vec<_>>().join("\n"))
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.backends.clear();
        let Some(server) = self.postgres.take() else { return };
        let pid = server.pid();
        drop(server);
        // Its directory is removed next, and must not be written to any more.
        u32::try_from(pid).into_iter().for_each(|pid| procfs::wait_until_gone(pid, END_LIMIT));
    }
}

fn server_processes(server: &LocalPostgres) -> Vec<u32> {
    let Ok(pid) = u32::try_from(server.pid()) else { return Vec::new() };
    std::iter::once(pid).chain(procfs::descendants(pid)).collect()
}
