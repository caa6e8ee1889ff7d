//! Fan-out: one topic, many subscribers; what a delivery costs the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::accounting::{Latencies, Losses};
use crate::host::ensure_open_files;
use crate::link::{Interest, Link, Transport};
use crate::procfs;
use crate::session::{Message, Publishing, Session, fresh_topic};
use crate::target::{Running, Target};
use crate::wire::sequence::payload;

/// What is opened and sent.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Connections, each with one subscription
    #[arg(long, default_value_t = 1000)]
    pub subscribers: usize,
    /// Size of the payload, in bytes of JSON
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Messages under way; several are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    pub inflight: Vec<u64>,
    /// How long each is measured, after a second of warm-up
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Connections that publish, in turn
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Fanout {
    /// The server.
    pub target: Target,
    /// How the subscribers are connected.
    pub transport: Transport,
    /// How many.
    pub subscribers: usize,
    /// Bytes of payload.
    pub payload: usize,
    /// Messages under way.
    pub inflight: u64,
    /// Whether the server had a core of its own.
    pub pinned: bool,
    /// Seconds measured.
    pub seconds: f64,
    /// Messages received by subscribers meanwhile.
    pub deliveries: u64,
    /// The same a second.
    pub deliveries_per_second: f64,
    /// CPU time of the server process a delivery, in microseconds.
    pub cpu_us_per_delivery: f64,
    /// CPU time of what it needs beside it (database, Redis) a delivery, in microseconds.
    pub beside_cpu_us_per_delivery: f64,
    /// Resident memory that one idle connection with one subscription adds, in KiB.
    pub idle_kib_per_connection: f64,
    /// From publishing to receipt.
    pub latencies: Latencies,
    /// Lost, duplicated, reordered.
    pub losses: Losses,
}

/// Opens the subscribers once and measures each number of messages under way.
///
/// # Errors
/// The server refuses, breaks or is gone.
pub async fn measure(server: &Running, transport: Transport, load: &Load) -> Result<Vec<Fanout>> {
    ensure_open_files(load.subscribers as u64 + 200)?;
    let placement = server.place();
    let topic = fresh_topic("fanout")?;
    let (links, idle_kib_per_connection) =
        open_subscribers(server, transport, &topic, load.subscribers).await?;
    let publishing = Publishing {
        endpoint: &server.endpoint,
        transport: server.target.publish_transport(),
        message: Message::Event(topic.clone()),
        connections: load.publishers,
    };
    let mut session = Session::start(links, u32::try_from(load.subscribers)?, &publishing).await?;
    let mut results = Vec::new();
    let mut before = Losses::default();
    for inflight in &load.inflight {
        let mut fanout = one(server, &mut session, load, *inflight).await?;
        let total = fanout.losses;
        fanout.losses = total.since(before);
        before = total;
        results.push(Fanout { transport, idle_kib_per_connection, pinned: placement.is_pinned(), ..fanout });
    }
    Ok(results)
}

/// Opens them. What the first quarter takes is not counted as a connection's memory: with it comes what a server needs once,
/// however many connect.
#[allow(clippy::cast_precision_loss)] // KiB and counts are far below 2^52
async fn open_subscribers(
    server: &Running,
    transport: Transport,
    topic: &str,
    count: usize,
) -> Result<(Vec<Link>, f64)> {
    let interest = Interest { topic, filter: None };
    let first = count / 4;
    let mut before = procfs::resident_kib(server.pid)?;
    let mut links = Vec::with_capacity(count);
    for index in 0..count {
        if index == first {
            before = procfs::resident_kib(server.pid)?;
        }
        let opened = async {
            let mut link = Link::open(&server.endpoint, transport, Some(&interest)).await?;
            link.subscribe(&interest).await?;
            anyhow::Ok(link)
        };
        links.push(opened.await.with_context(|| format!("subscriber {index}"))?);
    }
    let grown = procfs::resident_kib(server.pid)?.saturating_sub(before);
    Ok((links, grown as f64 / (count - first).max(1) as f64))
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
async fn one(server: &Running, session: &mut Session, load: &Load, inflight: u64) -> Result<Fanout> {
    let make = |sequence| payload(sequence, load.payload);
    session.publish_for(Duration::from_secs(1), inflight, make).await.context("warming up")?;
    let beside = server.beside();
    let (cpu, beside_cpu) = (procfs::cpu_time(server.pid)?, procfs::cpu_time_of_all(&beside));
    session.with_ledger(crate::accounting::Ledger::start_measuring);
    let started = Instant::now();
    session.publish_for(Duration::from_secs(load.seconds), inflight, make).await.context("measuring")?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = procfs::cpu_time(server.pid)?.saturating_sub(cpu);
    let beside_cpu = procfs::cpu_time_of_all(&beside).saturating_sub(beside_cpu);
    let (deliveries, latencies, losses) =
        session.with_ledger(|ledger| (ledger.deliveries(), ledger.latencies(), ledger.losses()));
    let each = |time: Duration| time.as_secs_f64() * 1e6 / deliveries.max(1) as f64;
    Ok(Fanout {
        target: server.target,
        transport: Transport::Ws,
        subscribers: load.subscribers,
        payload: load.payload,
        inflight,
        pinned: false,
        seconds,
        deliveries,
        deliveries_per_second: deliveries as f64 / seconds,
        cpu_us_per_delivery: each(cpu),
        beside_cpu_us_per_delivery: each(beside_cpu),
        idle_kib_per_connection: 0.0,
        latencies,
        losses,
    })
}
