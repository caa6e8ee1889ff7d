//! Channels: what a delivery costs when the members are spread over two instances, beside the same members
//! on one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::accounting::{Latencies, Ledger, Losses};
use crate::host::ensure_open_files;
use crate::link::{Link, Transport};
use crate::procfs;
use crate::session::{Message, Publishing, Session, fresh_topic};
use crate::stage::{Cores, Mode, Options, Stage};
use crate::wire::sequence::payload;

/// What is opened and sent.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Members of the channel
    #[arg(long, default_value_t = 1000)]
    pub members: usize,
    /// Size of what is said, in bytes of JSON
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Messages under way; several are measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    pub inflight: Vec<u64>,
    /// How long each is measured, after a second of warm-up
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Channel {
    /// Backends over which the members are spread.
    pub instances: usize,
    /// How many members.
    pub members: usize,
    /// Messages under way.
    pub inflight: u64,
    /// Whether the backends had a core of their own.
    pub pinned: bool,
    /// Messages received by members.
    pub deliveries: u64,
    /// The same a second.
    pub deliveries_per_second: f64,
    /// CPU time of all backends a delivery, in microseconds.
    pub cpu_us_per_delivery: f64,
    /// CPU time of Redis and PostgreSQL a delivery, in microseconds.
    pub beside_cpu_us_per_delivery: f64,
    /// From sending to receipt.
    pub latencies: Latencies,
    /// Lost, duplicated, reordered.
    pub losses: Losses,
}

/// Measures the members on one instance, then spread over two.
///
/// # Errors
/// A backend does not start, refuses, or breaks.
pub async fn measure(options: &Options, load: &Load) -> Result<Vec<Channel>> {
    ensure_open_files(load.members as u64 + 200)?;
    let mut results = Vec::new();
    for instances in [1, 2] {
        let stage = Stage::start(options, Mode::Redis, instances, Cores::Own).await?;
        let measured = on(&stage, load).await.with_context(|| format!("{instances} instances"));
        results.extend(stage.explain(measured)?);
    }
    Ok(results)
}

async fn on(stage: &Stage, load: &Load) -> Result<Vec<Channel>> {
    let placement = stage.place();
    let channel = fresh_topic("channel")?;
    let links = open_members(stage, &channel, load.members).await?;
    let publishing = Publishing {
        endpoint: stage.backend().endpoint(),
        transport: Transport::Ws,
        message: Message::Said(channel),
        connections: 1,
    };
    let mut session = Session::start(links, u32::try_from(load.members)?, &publishing).await?;
    let mut results = Vec::new();
    let mut before = Losses::default();
    for inflight in &load.inflight {
        let mut measured = one(stage, &mut session, load, *inflight).await?;
        let total = measured.losses;
        measured.losses = total.since(before);
        before = total;
        results.push(Channel { pinned: placement.is_pinned(), ..measured });
    }
    Ok(results)
}

async fn open_members(stage: &Stage, channel: &str, count: usize) -> Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    for (index, backend) in (0..count).zip(stage.backends().iter().cycle()) {
        let opened = async {
            let endpoint = stage.endpoint_as(&backend.endpoint().address, &format!("member{index}"))?;
            let mut link = Link::open(&endpoint, Transport::Ws, None).await?;
            link.join(channel).await?;
            anyhow::Ok(link)
        };
        links.push(opened.await.with_context(|| format!("member {index}"))?);
    }
    Ok(links)
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
async fn one(stage: &Stage, session: &mut Session, load: &Load, inflight: u64) -> Result<Channel> {
    let make = |sequence| payload(sequence, load.payload);
    session.publish_for(Duration::from_secs(1), inflight, make).await.context("warming up")?;
    let (servers, beside) = (stage.pids(), stage.beside());
    let before = (procfs::cpu_time_of_all(&servers), procfs::cpu_time_of_all(&beside));
    session.with_ledger(Ledger::start_measuring);
    let started = Instant::now();
    session.publish_for(Duration::from_secs(load.seconds), inflight, make).await.context("measuring")?;
    let seconds = started.elapsed().as_secs_f64();
    let (deliveries, latencies, losses) =
        session.with_ledger(|ledger| (ledger.deliveries(), ledger.latencies(), ledger.losses()));
    let each = |pids: &[u32], before: Duration| {
        procfs::cpu_time_of_all(pids).saturating_sub(before).as_secs_f64() * 1e6 / deliveries.max(1) as f64
    };
    Ok(Channel {
        instances: servers.len(),
        members: load.members,
        inflight,
        pinned: false,
        deliveries,
        deliveries_per_second: deliveries as f64 / seconds,
        cpu_us_per_delivery: each(&servers, before.0),
        beside_cpu_us_per_delivery: each(&beside, before.1),
        latencies,
        losses,
    })
}
