//! Documents: merges over REST beside a reference that does the same work with nothing around it, the
//! answer's time at half of what was reached, and the time from a write to its event in a client.

mod bare;
mod notice;
mod pgbench;
mod workload;

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

pub use bare::{Arguments as BareArguments, serve as serve_bare};
pub use notice::Notice;
pub use pgbench::Bare as PgBench;
pub use workload::Spread;

use crate::host::ensure_open_files;
use crate::link::Endpoint;
use crate::procfs;
use crate::requests::{Answered, Caller, Pace, drive};
use crate::stage::{Cores, Mode, Options, Redis, Stage};
use workload::Workload;

const WARM_UP: Duration = Duration::from_secs(1);

/// What is written.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Documents of the variant with many
    #[arg(long, default_value_t = 10_000)]
    pub documents: u64,
    /// Services over which they are spread
    #[arg(long, default_value_t = 16)]
    pub services: u64,
    /// Documents of the variant with few, all in one service
    #[arg(long, default_value_t = 16)]
    pub few: u64,
    /// Size of a document's data, in bytes of JSON
    #[arg(long, default_value_t = 1024)]
    pub bytes: usize,
    /// How long each is measured, after a second of warm-up
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Writes whose way to a client is timed
    #[arg(long, default_value_t = 300)]
    pub writes: u64,
}

impl Load {
    const fn many(&self) -> Spread {
        Spread { documents: self.documents, services: self.services }
    }

    /// One for each of those that write.
    const fn own(&self) -> Spread {
        Spread { documents: self.connections as u64, services: self.services }
    }

    const fn few(&self) -> Spread {
        Spread { documents: self.few, services: 1 }
    }
}

/// Merges as fast as they are answered.
#[derive(Debug, Clone, Serialize)]
pub struct Merged {
    /// Which documents.
    pub spread: Spread,
    /// Connections.
    pub connections: usize,
    /// What was answered.
    pub answered: Answered,
    /// CPU time of the server a request, in microseconds.
    pub cpu_us_per_request: f64,
    /// CPU time of Redis and PostgreSQL beside it a request, in microseconds.
    pub beside_cpu_us_per_request: f64,
}

/// The platform and its reference, on the same documents.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// What stands behind the backend.
    pub mode: Mode,
    /// The platform.
    pub platform: Merged,
    /// The platform at half of that rate.
    pub half: Answered,
    /// On Redis the reference: a server of the same kind around the same Redis commands.
    pub bare: Option<Merged>,
    /// On PostgreSQL the reference: pgbench with the same statements.
    pub pgbench: Option<PgBench>,
}

impl Compared {
    /// Requests (or documents) a second of the reference.
    pub fn reference_per_second(&self) -> Option<f64> {
        let bare = self.bare.as_ref().map(|bare| bare.answered.per_second);
        bare.or_else(|| self.pgbench.as_ref().map(|pgbench| pgbench.documents_per_second))
    }
}

/// All of one mode.
#[derive(Debug, Clone, Serialize)]
pub struct Documents {
    /// Merges of many documents, and in Redis' mode of one for each connection, and of few.
    pub merges: Vec<Compared>,
    /// A write's way to a client.
    pub notice: Notice,
}

/// Measures one mode: the platform, then what it is compared with, each alone on the machine.
///
/// # Errors
/// Something does not start, or refuses a request.
pub async fn measure(options: &Options, mode: Mode, load: &Load) -> Result<Documents> {
    ensure_open_files(load.connections as u64 + 200)?;
    let spreads = match mode {
        Mode::Redis => vec![load.many(), load.own(), load.few()],
        Mode::Postgres => vec![load.many()],
    };
    let mut merges = Vec::new();
    let mut notice = None;
    for spread in spreads {
        let mut stage = Stage::start(options, mode, 1, Cores::All).await?;
        let measured = platform(&stage, mode, load, spread).await;
        let (mut compared, size) = stage.explain(measured)?;
        if notice.is_none() {
            let way = notice::measure(&stage, mode, &workload(&stage, load, spread), load.writes).await;
            notice = Some(stage.explain(way)?);
        }
        if mode == Mode::Postgres {
            stage.stop_backends();
            let bare = pgbench::measure(&stage.database_url(), spread, load, size).await;
            compared.pgbench = Some(bare.context("pgbench")?);
        }
        merges.push(compared);
    }
    for compared in merges.iter_mut().filter(|_| mode == Mode::Redis) {
        compared.bare = Some(bare(options, load, compared.platform.spread).await.context("the bare server")?);
    }
    Ok(Documents { merges, notice: notice.context("no write was timed")? })
}

fn workload(stage: &Stage, load: &Load, spread: Spread) -> Workload {
    Workload { endpoint: stage.backend().endpoint().clone(), spread, bytes: load.bytes }
}

/// The platform's part, and how many documents a transaction of its log held.
async fn platform(stage: &Stage, mode: Mode, load: &Load, spread: Spread) -> Result<(Compared, f64)> {
    let workload = workload(stage, load, spread);
    let mut callers = Caller::open_many(&workload.endpoint.address, load.connections).await?;
    create(&mut callers, &workload).await?;
    let (servers, beside) = (stage.pids(), stage.beside());
    let closed = closed(&mut callers, &workload, load, &servers, &beside);
    let (merged, size) = batch_size(&workload.endpoint, closed).await?;
    let half = Pace::Open(merged.answered.per_second / 2.0);
    // Numbers go on, so that every merge changes something.
    let first = 1_u64 << 38;
    let half =
        drive(&mut callers, half, Duration::from_secs(load.seconds), |n| workload.merge(first + n)).await?;
    Ok((Compared { mode, platform: merged, half, bare: None, pgbench: None }, size))
}

/// Creates all documents.
async fn create(callers: &mut [Caller], workload: &Workload) -> Result<()> {
    let count = callers.len();
    let each = callers.iter_mut().zip(0_u64..).map(async |(caller, first)| {
        for document in (first..workload.spread.documents).step_by(count) {
            caller.call(&workload.creation(document)).await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(each).await.context("creating the documents")?;
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
async fn closed(
    callers: &mut [Caller],
    workload: &Workload,
    load: &Load,
    servers: &[u32],
    beside: &[u32],
) -> Result<Merged> {
    let warm =
        drive(callers, Pace::Closed, WARM_UP, |n| workload.merge(n + 1)).await.context("warming up")?;
    let first = warm.requests + 1;
    let before = (procfs::cpu_time_of_all(servers), procfs::cpu_time_of_all(beside));
    let duration = Duration::from_secs(load.seconds);
    let answered = drive(callers, Pace::Closed, duration, |n| workload.merge(first + n)).await?;
    let each = |pids: &[u32], before: Duration| {
        let used = procfs::cpu_time_of_all(pids).saturating_sub(before);
        used.as_secs_f64() * 1e6 / answered.requests.max(1) as f64
    };
    Ok(Merged {
        spread: workload.spread,
        connections: callers.len(),
        answered,
        cpu_us_per_request: each(servers, before.0),
        beside_cpu_us_per_request: each(beside, before.1),
    })
}

/// Runs `work`, and reads from the backend's metrics how many events its log committed together meanwhile.
async fn batch_size<T>(endpoint: &Endpoint, work: impl Future<Output = Result<T>>) -> Result<(T, f64)> {
    let before = batches(endpoint).await?;
    let done = work.await?;
    let after = batches(endpoint).await?;
    Ok((done, (after.0 - before.0) / (after.1 - before.1).max(1.0)))
}

/// Events appended, and batches in which they were.
async fn batches(endpoint: &Endpoint) -> Result<(f64, f64)> {
    let text = reqwest::get(format!("http://{}/metrics", endpoint.address)).await?.text().await?;
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("the backend has no metric {name}"))?.parse()?)
    };
    Ok((value("realtime_append_batch_size_sum")?, value("realtime_append_batch_size_count")?))
}

/// The reference of Redis' mode: the bare server over a fresh Redis of the same settings.
async fn bare(options: &Options, load: &Load, spread: Spread) -> Result<Merged> {
    let redis = Redis::start(options.persistence).await?;
    let server = bare::Server::start(&redis.url()).await?;
    let endpoint = Endpoint { address: server.address().to_owned(), token: Some("x".repeat(300)) };
    let workload = Workload { endpoint, spread, bytes: load.bytes };
    let mut callers = Caller::open_many(&workload.endpoint.address, load.connections).await?;
    create(&mut callers, &workload).await?;
    closed(&mut callers, &workload, load, &[server.pid()], &[redis.pid()]).await
}
