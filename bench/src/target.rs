//! The servers under test: how each is started, and which transports it serves.
//!
//! All of them speak the subset of the wire protocol that the load generator needs, so that one client
//! serves them all. What is special to the platform is in `platform`.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::child::{self, Process};
use crate::host::Placement;
use crate::link::{Endpoint, Transport};
use crate::platform;
use crate::procfs;
use crate::stage::{Persistence, Redis};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A server to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The platform itself.
    Platform,
    /// The bare tokio server of this package.
    TokioBare,
    /// Bun's publish/subscribe.
    Bun,
    /// Node with `ws`.
    NodeWs,
    /// Node with socket.io.
    NodeSocketio,
    /// Node with socket.io and its Redis adapter.
    NodeSocketioRedis,
}

impl Target {
    /// Its name in reports.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::TokioBare => "bare tokio",
            Self::Bun => "Bun publish/subscribe",
            Self::NodeWs => "Node ws",
            Self::NodeSocketio => "Node socket.io",
            Self::NodeSocketioRedis => "Node socket.io, Redis adapter",
        }
    }

    /// The transports that it serves.
    pub const fn transports(self) -> &'static [Transport] {
        match self {
            Self::Platform => &[Transport::Ws, Transport::SocketIo, Transport::Sse],
            Self::TokioBare => &[Transport::Ws, Transport::Sse],
            Self::Bun | Self::NodeWs => &[Transport::Ws],
            Self::NodeSocketio | Self::NodeSocketioRedis => &[Transport::SocketIo],
        }
    }

    /// The transport over which messages are published to it.
    pub const fn publish_transport(self) -> Transport {
        match self {
            Self::NodeSocketio | Self::NodeSocketioRedis => Transport::SocketIo,
            _ => Transport::Ws,
        }
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It is not installed, or does not start in time.
    pub async fn start(self, options: &platform::Options) -> Result<Running> {
        match self {
            Self::Platform => platform::start(options).await,
            Self::TokioBare => {
                let mut command = child::command(std::env::current_exe()?);
                command.arg("floor");
                self.start_peer(command, Vec::new()).await
            }
            Self::Bun => self.start_peer(script(&bun()?, "bun.mjs")?, Vec::new()).await,
            Self::NodeWs => self.start_peer(node("node-ws.mjs")?, Vec::new()).await,
            Self::NodeSocketio => self.start_peer(node("node-socketio.mjs")?, Vec::new()).await,
            Self::NodeSocketioRedis => {
                let redis = Redis::start(Persistence::Nothing).await?;
                let mut command = node("node-socketio.mjs")?;
                command.env("REDIS_URL", redis.url());
                self.start_peer(command, vec![redis.into_process()]).await
            }
        }
    }

    async fn start_peer(self, mut command: Command, companions: Vec<Process>) -> Result<Running> {
        // A server core each: the platform's runtime and the floor's get one worker thread.
        command.env("TOKIO_WORKER_THREADS", "1").env_remove("NODE_OPTIONS");
        let mut process = Process::start(self.title(), command, Duration::ZERO)?;
        let ready = process.ready_line(START_LIMIT).await?;
        let port = ready["port"].as_u64().context("a peer's ready line says its port")?;
        Ok(Running {
            target: self,
            endpoint: Endpoint { address: format!("127.0.0.1:{port}"), token: None },
            pid: process.pid(),
            database_url: None,
            own_core: true,
            process: Some(process),
            companions,
        })
    }
}

/// A server that serves. Dropping it ends it, where it was started here.
#[derive(Debug)]
pub struct Running {
    /// Which.
    pub target: Target,
    /// Where clients connect.
    pub endpoint: Endpoint,
    /// The process that is measured.
    pub pid: u32,
    /// The database whose changes it streams, where it said so.
    pub database_url: Option<String>,
    /// Whether it is measured on a core of its own, or may use them all.
    pub own_core: bool,
    /// Its process, where it was started here. Declared before the companions, to end before them.
    pub process: Option<Process>,
    /// Processes that it needs (Redis), measured beside it.
    pub companions: Vec<Process>,
}

impl Running {
    /// Processes whose CPU is reported beside the server's: its children (the platform's database) and
    /// its companions.
    pub fn beside(&self) -> Vec<u32> {
        let mut pids = procfs::descendants(self.pid);
        pids.extend(self.companions.iter().map(Process::pid));
        pids
    }

    /// Gives it its core, where it is to have one, for as long as the placement lives.
    pub fn place(&self) -> Placement {
        if self.own_core { Placement::separate(&[self.pid]) } else { Placement::shared() }
    }

    /// Adds to an error what the server wrote to standard error, where it was started here.
    ///
    /// # Errors
    /// The outcome's.
    pub fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| match &self.process {
            Some(process) => process.complaint(&format!("could not be measured: {error:#}")),
            None => error,
        })
    }
}

/// The directory of the peers' scripts.
fn peers() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn node(name: &str) -> Result<Command> {
    script(&PathBuf::from("node"), name)
}

fn script(program: &std::path::Path, name: &str) -> Result<Command> {
    let folder = peers();
    if !folder.join("node_modules").is_dir() {
        bail!("the peers are not installed: run `npm ci` in {}", folder.display());
    }
    let mut command = child::command(program);
    command.arg(folder.join(name)).current_dir(folder).env("NODE_ENV", "production");
    Ok(command)
}

/// The binary itself, not a script around it: its process is the one measured.
fn bun() -> Result<PathBuf> {
    let binary = peers().join("node_modules/bun/bin/bun.exe");
    if !binary.is_file() {
        bail!("Bun is not installed: run `npm ci` in {}", peers().display());
    }
    Ok(binary)
}

/// A loopback port that nobody uses just now.
///
/// # Errors
/// None is free.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
