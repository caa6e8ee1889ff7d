//! The platform as a server under test: started here, or already running and only pointed at.
//!
//! `start` is the one place that knows how. What it relies on: the command starts a platform with a
//! private database in `{data}`, serving on `{port}`, and prints, once it is ready, one line on standard
//! output that is a JSON object `{"url", "token", "targetUrl", "pid"}`: where it serves, a token of the role
//! `admin` for `app_default`/`development`, the database whose changes it streams, and the process to
//! measure (left out: the one started). SIGTERM ends it and its database.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::{self, Process};
use crate::link::Endpoint;
use crate::target::{Running, Target, free_port};

/// A first start makes a database and runs the migrations.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Its own shutdown is bounded by 25 s.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// The limits of the load generator's connections are raised: it publishes and subscribes over few
/// connections what in life comes from many.
pub const LIMITS: [(&str, &str); 3] = [
    ("LIMIT_MESSAGES_PER_SECOND", "1000000"),
    ("LIMIT_MESSAGE_BURST", "1000000"),
    ("LIMIT_CONNECTIONS_PER_ADDRESS", "0"),
];

/// Which platform to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The command that starts the platform; {port} and {data} are replaced
    #[arg(
        long,
        env = "BENCH_PLATFORM_COMMAND",
        default_value = "target/release/realtime dev --json --port {port} --data-dir {data}"
    )]
    pub platform_command: String,
    /// A platform that runs already (then --token and --pid too); nothing is started
    #[arg(long, requires = "token", requires = "pid")]
    pub url: Option<String>,
    /// A token of the role admin for the running platform
    #[arg(long)]
    pub token: Option<String>,
    /// The process of the running platform
    #[arg(long)]
    pub pid: Option<u32>,
    /// The database whose changes are streamed: the running platform's, or one for the platform started here
    #[arg(long)]
    pub database_url: Option<String>,
    /// Let the platform use every core (by default one of its own, with one worker thread, like the peers)
    #[arg(long)]
    pub all_cores: bool,
}

impl Options {
    /// Whether there is a platform to measure: one that runs, or a program to start.
    pub fn is_available(&self) -> bool {
        self.url.is_some()
            || self.program().is_ok_and(|program| is_on_the_path(&program) || program.is_file())
    }

    fn program(&self) -> Result<PathBuf> {
        let first =
            self.platform_command.split_whitespace().next().context("the platform's command is empty")?;
        Ok(PathBuf::from(first))
    }
}

/// A bare name is looked up when it is started.
fn is_on_the_path(program: &Path) -> bool {
    program.components().count() == 1
}

/// Starts the platform, or takes the running one.
///
/// # Errors
/// It does not start in time, or its ready line lacks something.
pub async fn start(options: &Options) -> Result<Running> {
    if let Some(url) = &options.url {
        return Ok(Running {
            target: Target::Platform,
            endpoint: Endpoint { address: address_of(url)?, token: options.token.clone() },
            pid: options.pid.context("--pid is needed with --url")?,
            database_url: options.database_url.clone(),
            own_core: !options.all_cores,
            process: None,
            companions: Vec::new(),
        });
    }
    start_own(options).await
}

async fn start_own(options: &Options) -> Result<Running> {
    // Readable for others: started by root, the platform's database runs as another user.
    let data = tempfile::Builder::new()
        .prefix("bench-platform-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let mut words = options.platform_command.split_whitespace();
    let program = words.next().context("the platform's command is empty")?;
    let port = free_port()?.to_string();
    let place = data.path().to_string_lossy().into_owned();
    let mut command = child::command(program);
    command.args(words.map(|word| word.replace("{port}", &port).replace("{data}", &place)));
    command.envs(LIMITS).env("LOG_LEVEL", "warn");
    if let Some(url) = &options.database_url {
        command.env("CDC_DATABASE_URL", url);
    }
    if !options.all_cores {
        command.env("TOKIO_WORKER_THREADS", "1");
    }
    let mut process = Process::start("the platform", command, STOP_GRACE)?.with_directory(data);
    let ready = process.ready_line(START_LIMIT).await?;
    let text = |name: &str| ready[name].as_str().map(str::to_owned);
    let url = text("url").context("the platform's ready line has no url")?;
    Ok(Running {
        target: Target::Platform,
        endpoint: Endpoint { address: address_of(&url)?, token: text("token") },
        pid: ready["pid"].as_u64().map_or(Ok(process.pid()), u32::try_from)?,
        database_url: options.database_url.clone().or_else(|| text("targetUrl")),
        own_core: !options.all_cores,
        process: Some(process),
        companions: Vec::new(),
    })
}

/// `host:port` of an http URL.
fn address_of(url: &str) -> Result<String> {
    let url = url::Url::parse(url).with_context(|| format!("{url:?} is not a URL"))?;
    ensure!(url.scheme() == "http", "the load generator speaks plain http, not {}", url.scheme());
    let host = url.host_str().context("the URL has no host")?;
    Ok(format!("{host}:{}", url.port_or_known_default().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address_of("http://127.0.0.1:3000/").unwrap(), "127.0.0.1:3000");
        assert_eq!(address_of("http://localhost").unwrap(), "localhost:80");
        assert!(address_of("https://localhost").is_err());
        assert!(address_of("nowhere").is_err());
    }
}
