//! CDC: rows a second until their events are appended, CPU a row, beside `pg_recvlogical`; and the time
//! from a commit to the event in a client.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use sqlx::postgres::PgConnection;
use tokio::time::{sleep, timeout};

use crate::accounting::{Latencies, LatencyRecorder};
use crate::link::{Interest, Link, Transport};
use crate::procfs;
use crate::recvlogical::{Received, Slot};
use crate::rows::{Head, Mapped, Rest, connect};
use crate::target::Running;
use crate::wire::sequence::sequence_in;

/// Until all rows are events.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// What is inserted.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Rows to stream
    #[arg(long, default_value_t = 300_000)]
    pub rows: u64,
    /// Rows a transaction
    #[arg(long, default_value_t = 100)]
    pub batch: u64,
    /// Single inserts whose way to the client is timed
    #[arg(long, default_value_t = 300)]
    pub inserts: u64,
}

/// One measurement of the throughput.
#[derive(Debug, Clone, Serialize)]
pub struct Throughput {
    /// Rows inserted.
    pub rows: u64,
    /// Rows a second of the loader: no reader can be faster.
    pub loaded_rows_per_second: f64,
    /// Rows a second from the first insert until the last event was appended.
    pub rows_per_second: f64,
    /// CPU time of the platform a row, all of it, in microseconds.
    pub cpu_us_per_row: f64,
    /// CPU time of the databases beside it a row (loading included), in microseconds.
    pub beside_cpu_us_per_row: f64,
    /// CPU time of the platform a row that is decoded and evaluated but becomes no event.
    pub decode_cpu_us_per_row: f64,
    /// Rows without an event.
    pub lost: u64,
    /// Events beyond one a row.
    pub duplicated: u64,
    /// `pg_recvlogical` on the same rows.
    pub recvlogical: Received,
}

/// Commit to client.
#[derive(Debug, Clone, Serialize)]
pub struct CommitToClient {
    /// Inserts timed.
    pub inserts: u64,
    /// From sending `commit` until the client had read the event.
    pub latencies: Latencies,
    /// The part of it until the database answered: what its disk takes, before the platform can know.
    pub commits: Latencies,
}

/// Measures the throughput, on every core: reader, both databases and loader share the machine.
///
/// # Errors
/// Database or platform refuse, or not all rows arrive in time.
pub async fn throughput(server: &Running, load: &Load) -> Result<Throughput> {
    let url =
        server.database_url.as_deref().context("the application's database is not known: --database-url")?;
    let rest = Rest::new(&server.endpoint)?;
    let mut database = connect(url).await?;
    let mapped = Mapped::create(server, &rest, &mut database, "cdc", None, "new").await?;
    let slot = Slot::create(&mut database, &mapped.table).await?;
    let measured = stream_rows(server, load, &mapped, &mut database).await;
    let received = match &measured {
        Ok(_) => slot.receive(&mut database, url, load.rows).await,
        Err(_) => Err(anyhow::anyhow!("not measured")),
    };
    slot.drop(&mut database).await.context("dropping the slot")?;
    mapped.finish(&rest, &mut database).await?;
    let mut measured = measured?;
    measured.recvlogical = received?;
    measured.decode_cpu_us_per_row = decode_only(server, load, &rest, &mut database).await?;
    Ok(measured)
}

#[allow(clippy::cast_precision_loss)] // row counts are far below 2^52
async fn stream_rows(
    server: &Running,
    load: &Load,
    mapped: &Mapped,
    database: &mut PgConnection,
) -> Result<Throughput> {
    let mut head = Head::open(server, &mapped.topic).await?;
    let first = head.offset().await?;
    let beside = server.beside();
    let (cpu, beside_cpu) = (procfs::cpu_time(server.pid)?, procfs::cpu_time_of_all(&beside));
    let started = Instant::now();
    let (loaded, reached) = tokio::try_join!(
        mapped.table.fill(database, load.rows, load.batch),
        head.reaches(first + load.rows, DRAIN_LIMIT)
    )?;
    let (finished, settled) = reached;
    let cpu = procfs::cpu_time(server.pid)?.saturating_sub(cpu);
    let beside_cpu = procfs::cpu_time_of_all(&beside).saturating_sub(beside_cpu);
    let rows = load.rows.max(1) as f64;
    let appended = settled - first;
    Ok(Throughput {
        rows: load.rows,
        loaded_rows_per_second: rows / loaded.as_secs_f64(),
        rows_per_second: rows / finished.duration_since(started).as_secs_f64(),
        cpu_us_per_row: cpu.as_secs_f64() * 1e6 / rows,
        beside_cpu_us_per_row: beside_cpu.as_secs_f64() * 1e6 / rows,
        decode_cpu_us_per_row: 0.0,
        lost: load.rows.saturating_sub(appended),
        duplicated: appended.saturating_sub(load.rows),
        recvlogical: Received { rows: 0, rows_per_second: 0.0, cpu_us_per_row: 0.0 },
    })
}

/// The part that `pg_recvlogical` can be compared with: a mapping whose condition no row fulfils but the
/// last, so that every row is received, decoded and evaluated, and none appended.
#[allow(clippy::cast_precision_loss)] // row counts are far below 2^52
async fn decode_only(server: &Running, load: &Load, rest: &Rest, database: &mut PgConnection) -> Result<f64> {
    let last_only = json!({ "eq": ["$row.status", "last"] });
    let mapped = Mapped::create(server, rest, database, "decode", Some(last_only), "last").await?;
    let mut head = Head::open(server, &mapped.topic).await?;
    let first = head.offset().await?;
    let cpu = procfs::cpu_time(server.pid)?;
    mapped.table.fill(database, load.rows, load.batch).await?;
    mapped.table.insert_marker(database, "last").await?;
    head.reaches(first + 1, DRAIN_LIMIT).await?;
    let cpu = procfs::cpu_time(server.pid)?.saturating_sub(cpu);
    mapped.finish(rest, database).await?;
    Ok(cpu.as_secs_f64() * 1e6 / load.rows.max(1) as f64)
}

/// Measures the way of single rows, one at a time, with pauses between them.
///
/// # Errors
/// Database or platform refuse, or an event does not arrive in time.
pub async fn commit_to_client(server: &Running, load: &Load) -> Result<CommitToClient> {
    let url =
        server.database_url.as_deref().context("the application's database is not known: --database-url")?;
    let rest = Rest::new(&server.endpoint)?;
    let mut database = connect(url).await?;
    let mapped = Mapped::create(server, &rest, &mut database, "latency", None, "new").await?;
    let mut link = Link::open(&server.endpoint, Transport::Ws, None).await?;
    link.subscribe(&Interest { topic: &mapped.topic, filter: None }).await?;
    // What was written before (a new database, other measurements) must not stand in the way of the commits.
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    let (mut arrivals, mut commits) = (LatencyRecorder::new(), LatencyRecorder::new());
    for number in 0..load.inserts {
        let (commit, arrival) = one_insert(&mapped, &mut database, &mut link, number).await?;
        commits.note(commit);
        arrivals.note(arrival);
        sleep(Duration::from_millis(20)).await;
    }
    mapped.finish(&rest, &mut database).await?;
    let (latencies, commits) = (arrivals.latencies(), commits.latencies());
    Ok(CommitToClient { inserts: arrivals.count(), latencies, commits })
}

/// How long the commit took, and how long it took until the event was there.
async fn one_insert(
    mapped: &Mapped,
    database: &mut PgConnection,
    link: &mut Link,
    number: u64,
) -> Result<(Duration, Duration)> {
    crate::rows::execute(database, "begin".to_owned()).await?;
    mapped.table.insert(database, number, number).await?;
    let committed = Instant::now();
    let commit = async {
        crate::rows::execute(database, "commit".to_owned()).await?;
        Ok(Instant::now())
    };
    let arrival =
        async { timeout(EVENT_LIMIT, event(link, number)).await.context("no event for an insert")? };
    let (durable, arrived) = tokio::try_join!(commit, arrival)?;
    Ok((durable.duration_since(committed), arrived.duration_since(committed)))
}

async fn event(link: &mut Link, number: u64) -> Result<Instant> {
    loop {
        let mut arrived = None;
        let mut refused = None;
        link.pump(|text, at| match sequence_in(text) {
            Some(found) if found == number => arrived = Some(at),
            Some(_) => {}
            None => refused = crate::link::Answer::read(text),
        })
        .await?;
        if let Some(crate::link::Answer::Refused { text, .. }) = refused {
            bail!("the server said: {text}");
        }
        if let Some(at) = arrived {
            return Ok(at);
        }
    }
}
