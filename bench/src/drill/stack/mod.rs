//! What the drill runs on and strikes: PostgreSQL, Redis, and the platform's processes, on free loopback ports.
//!
//! Owns the processes and how they are started, killed and started again. It knows nothing of rows and events.

mod launch;
mod ports;
mod postgres;
mod redis;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;

pub use launch::{Programs, random, random_text};
pub use postgres::{Disk, Postgres};
pub use redis::Redis;

use super::chaos::{Blow, Manner, Victim};
use super::proxy::Proxy;
use crate::child::Process;
use crate::link::Endpoint;
use crate::rows::Rest;
use crate::stage::Secrets;
use launch::{Launch, Surroundings};
use ports::Ports;

/// A killed process is gone as soon as the kernel has cleaned up after it.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Twice what a graceful stop may take: a drill on a busy machine is not what measures it.
const STOP_LIMIT: Duration = Duration::from_secs(50);
/// So many of each, where the platform is not one process.
const INSTANCES: usize = 2;

/// Where the event log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// PostgreSQL alone.
    Postgres,
    /// Redis.
    Redis,
    /// PostgreSQL, under the platform as one process.
    Single,
}

impl Mode {
    /// Its name in the account.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Single => "single",
        }
    }

    /// What is struck in this mode.
    pub fn victims(self) -> Vec<Victim> {
        match self {
            Self::Postgres => vec![Victim::Backend, Victim::Leader, Victim::Postgres],
            Self::Redis => vec![Victim::Backend, Victim::Leader, Victim::Redis, Victim::Postgres],
            Self::Single => vec![Victim::Platform],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Backend,
    Workers,
    Platform,
}

/// One process of the platform.
struct Member {
    role: Role,
    port: u16,
    launch: Launch,
    process: Option<Process>,
}

impl Member {
    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    async fn end(&mut self, manner: Manner) -> Result<()> {
        let process = self.process.take().with_context(|| format!("{} runs", self.launch.name))?;
        match manner {
            Manner::Kill => {
                process.kill();
                process.ended(END_LIMIT).await?;
            }
            Manner::Stop => {
                process.terminate();
                let status = process.ended(STOP_LIMIT).await?;
                ensure!(status.success(), "{} was asked to stop and ended with {status}", self.launch.name);
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.process = Some(self.launch.start()?);
        Ok(())
    }
}

/// All of it. Dropping it ends it and removes its data. Fields end in their order.
pub struct Stack {
    members: Vec<Member>,
    /// In front of the backends.
    pub proxy: Proxy,
    /// Where the event log is, in that mode.
    pub redis: Option<Redis>,
    /// Both databases.
    pub postgres: Postgres,
    token: String,
    older: PathBuf,
    // Removed when it is dropped, last.
    _directory: tempfile::TempDir,
}

impl Stack {
    /// Starts everything; does not wait until the platform serves. Logs are kept in `logs`, where that is given.
    ///
    /// # Errors
    /// Something is not installed or not built, or cannot be started.
    pub async fn start(mode: Mode, programs: &Programs, disk: Disk, logs: Option<&Path>) -> Result<Self> {
        // Readable for others: started by root, the database server runs as another user.
        let directory = tempfile::Builder::new()
            .prefix("bench-drill-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let logs = match logs {
            Some(logs) => std::path::absolute(logs)?.join(mode.name()),
            None => directory.path().join("logs"),
        };
        std::fs::create_dir_all(&logs)?;
        let mut ports = Ports::default();
        let postgres = Postgres::start(directory.path(), ports.next()?, disk).await?;
        let redis = match mode {
            Mode::Redis => Some(Redis::start(directory.path(), logs.join("redis.log"), ports.next()?).await?),
            Mode::Postgres | Mode::Single => None,
        };
        let around = Surroundings {
            database_url: postgres.platform_url().to_owned(),
            redis_url: redis.as_ref().map(Redis::url),
            directory: directory.path().to_owned(),
            logs,
        };
        let secrets = Secrets::generate()?;
        let mut members = members(mode, programs, &mut ports, &around, postgres.target_url(), &secrets)?;
        members.iter_mut().try_for_each(Member::start)?;
        let behind = members.iter().filter(|member| member.role != Role::Workers).map(|member| member.port);
        let proxy = Proxy::start(behind.collect()).await?;
        let older = directory.path().join("redis-older");
        Ok(Self {
            members,
            proxy,
            redis,
            postgres,
            token: secrets.token("drill")?,
            older,
            _directory: directory,
        })
    }

    /// Where clients connect, with an administrator's token: the proxy.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.proxy.address().to_string(), token: Some(self.token.clone()) }
    }

    /// Each backend itself.
    pub fn backends(&self) -> Vec<Endpoint> {
        let backends = self.members.iter().filter(|member| member.role != Role::Workers);
        let endpoint = |member: &Member| Endpoint {
            address: format!("127.0.0.1:{}", member.port),
            token: Some(self.token.clone()),
        };
        backends.map(endpoint).collect()
    }

    /// Whether every process of the platform says that it is ready.
    ///
    /// # Errors
    /// One does not; with what it says.
    pub async fn ready(&self) -> Result<()> {
        self.all_ready(&self.members.iter().collect::<Vec<_>>()).await
    }

    /// The same of the workers only.
    ///
    /// # Errors
    /// As [`Stack::ready`].
    pub async fn ready_workers(&self) -> Result<()> {
        let workers = self.members.iter().filter(|member| member.role == Role::Workers);
        self.all_ready(&workers.collect::<Vec<_>>()).await
    }

    async fn all_ready(&self, members: &[&Member]) -> Result<()> {
        for member in members {
            let address = format!("127.0.0.1:{}", member.port);
            let rest = Rest::new(&Endpoint { address, token: Some(self.token.clone()) })?;
            rest.get("/ready").await.with_context(|| member.launch.name.clone())?;
        }
        Ok(())
    }

    /// Whether the process id is one of ours that runs.
    pub fn runs(&self, pid: u32) -> bool {
        self.members.iter().any(|member| member.pid() == Some(pid))
    }

    /// Ends one part and starts it again after a while; answers its name.
    ///
    /// # Errors
    /// Something had ended by itself, does not end, or cannot be started again.
    pub async fn strike(&mut self, blow: &Blow) -> Result<&'static str> {
        self.check()?;
        match blow.victim {
            Victim::Postgres => {
                self.postgres.kill().await?;
                sleep(blow.down).await;
                self.postgres.restart().await?;
                Ok("postgres")
            }
            Victim::Redis => {
                self.strike_redis(blow).await?;
                Ok("redis")
            }
            Victim::Backend | Victim::Leader | Victim::Workers | Victim::Platform => {
                let (index, name) = self.member_for(blow).await?;
                self.members[index].end(blow.manner).await?;
                sleep(blow.down).await;
                self.members[index].start()?;
                Ok(name)
            }
        }
    }

    async fn strike_redis(&mut self, blow: &Blow) -> Result<()> {
        let redis = self.redis.as_mut().context("redis is used in this mode")?;
        redis.kill().await?;
        if !self.older.exists() {
            redis.copy_files(&self.older)?;
        }
        sleep(blow.down).await;
        redis.restart().await
    }

    async fn member_for(&self, blow: &Blow) -> Result<(usize, &'static str)> {
        let (role, name) = match blow.victim {
            Victim::Backend => (Role::Backend, "backend"),
            Victim::Platform => (Role::Platform, "platform"),
            _ => (Role::Workers, "workers"),
        };
        if blow.victim == Victim::Leader
            && let Some(pid) = self.leader().await
            && let Some(index) = self.members.iter().position(|member| member.pid() == Some(pid))
        {
            return Ok((index, "leader"));
        }
        let candidates: Vec<usize> =
            (0..self.members.len()).filter(|index| self.members[*index].role == role).collect();
        ensure!(!candidates.is_empty(), "there is no {name} in this mode");
        let pick = usize::try_from(blow.pick % candidates.len() as u64)?;
        Ok((candidates[pick], name))
    }

    /// The process that leads change data capture, as far as anybody can say at the moment.
    pub async fn leader(&self) -> Option<u32> {
        let rest = Rest::new(&self.endpoint()).ok()?;
        let status = tokio::time::timeout(Duration::from_secs(2), rest.get("/api/database/cdc/status"));
        let status = status.await.ok()?.ok()?;
        status["leader"].as_str()?.split(':').next()?.parse().ok()
    }

    /// Ends the backend of this number, in the order of [`Stack::backends`]; [`Stack::start_missing`] starts it again.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill_backend(&mut self, number: usize) -> Result<()> {
        let mut backends = self.members.iter_mut().filter(|member| member.role == Role::Backend);
        backends.nth(number).context("there is such a backend")?.end(Manner::Kill).await
    }

    /// Ends the worker process with this id; [`Stack::start_missing_workers`] starts it again.
    ///
    /// # Errors
    /// It does not end, or not in order where it was asked to.
    pub async fn end_workers(&mut self, pid: u32, manner: Manner) -> Result<()> {
        let member = self.members.iter_mut().find(|member| member.pid() == Some(pid));
        member.context("the leader is one of ours")?.end(manner).await
    }

    /// Starts whatever was ended and not started again.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_missing(&mut self) -> Result<()> {
        self.members.iter_mut().filter(|member| member.process.is_none()).try_for_each(Member::start)
    }

    /// Starts whatever workers were ended and not started again.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start_missing_workers(&mut self) -> Result<()> {
        let ended = |member: &&mut Member| member.role == Role::Workers && member.process.is_none();
        self.members.iter_mut().filter(ended).try_for_each(Member::start)
    }

    /// Sets Redis back to the copy that was kept when it was first killed.
    ///
    /// # Errors
    /// There is none, or the files cannot be replaced.
    pub async fn set_redis_back(&mut self) -> Result<()> {
        let redis = self.redis.as_mut().context("redis is used in this mode")?;
        ensure!(self.older.exists(), "redis was never killed, so that there is no older copy of its files");
        redis.stop().await?;
        redis.restore_files(&self.older)?;
        redis.restart().await
    }

    /// Asks all processes of the platform to stop and waits for it.
    ///
    /// # Errors
    /// One does not, or not in order.
    pub async fn stop(&mut self) -> Result<()> {
        let running = self.members.iter_mut().filter(|member| member.process.is_some());
        let ended = futures::future::join_all(running.map(|member| member.end(Manner::Stop))).await;
        ended.into_iter().collect()
    }

    /// Whether everything runs that was started.
    ///
    /// # Errors
    /// Something ended by itself; with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        if self.postgres.has_ended() {
            bail!("the database server ended by itself");
        }
        if self.redis.as_mut().is_some_and(Redis::has_ended) {
            bail!("redis ended by itself");
        }
        let processes = self.members.iter_mut().filter_map(|member| member.process.as_mut());
        for process in processes {
            if !process.is_alive() {
                return Err(process.complaint("ended by itself"));
            }
        }
        Ok(())
    }

    /// Writes to standard error what the processes last logged, before the error that it is to explain.
    pub fn print_logs(&self) {
        let processes = self.members.iter().filter_map(|member| member.process.as_ref());
        processes.for_each(|process| eprintln!("{}", process.complaint("logged last:")));
    }
}

fn members(
    mode: Mode,
    programs: &Programs,
    ports: &mut Ports,
    around: &Surroundings,
    target_url: &str,
    secrets: &Secrets,
) -> Result<Vec<Member>> {
    let member = |role, port, launch| Member { role, port, launch, process: None };
    if mode == Mode::Single {
        let port = ports.next()?;
        let launch = Launch::single(&programs.realtime, port, around, target_url, secrets)?;
        return Ok(vec![member(Role::Platform, port, launch)]);
    }
    let mut members = Vec::new();
    let roles =
        [(Role::Backend, "backend", &programs.backend), (Role::Workers, "workers", &programs.workers)];
    for (role, name, program) in roles {
        for number in 1..=INSTANCES {
            let port = ports.next()?;
            let launch = Launch::server(format!("{name}-{number}"), program, port, around, secrets)?;
            members.push(member(role, port, launch));
        }
    }
    Ok(members)
}
