//! Filters: many filtered subscriptions on one topic, of which each event matches one.
//!
//! What is asked: does an event cost more the more subscriptions there are that it does not match?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::accounting::{Latencies, Ledger, Losses};
use crate::host::ensure_open_files;
use crate::link::{Answer, Interest, Link, Transport};
use crate::procfs;
use crate::session::{Message, Publishing, Session, fresh_topic};
use crate::target::Running;
use crate::wire::sequence::user_payload;

/// Requests that wait for their answer on one connection.
const PIPELINE: usize = 100;
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What is opened and sent.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Numbers of filtered subscriptions, measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 100_000])]
    pub subscriptions: Vec<usize>,
    /// Connections over which they are spread (the platform allows 1,000 subscriptions each)
    #[arg(long, default_value_t = 100)]
    pub connections: usize,
    /// Size of the payload, in bytes of JSON
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Messages under way
    #[arg(long, default_value_t = 16)]
    pub inflight: u64,
    /// How long each number is measured, after a second of warm-up
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Filtered {
    /// Filtered subscriptions on the topic.
    pub subscriptions: usize,
    /// Events published.
    pub events: u64,
    /// The same a second.
    pub events_per_second: f64,
    /// CPU time of the server process an event, in microseconds.
    pub cpu_us_per_event: f64,
    /// From publishing to receipt.
    pub latencies: Latencies,
    /// Lost, duplicated.
    pub losses: Losses,
}

/// Measures each number of subscriptions on a topic of its own, over fresh connections.
///
/// # Errors
/// The server refuses, breaks or is gone.
pub async fn measure(server: &Running, load: &Load) -> Result<Vec<Filtered>> {
    ensure_open_files(load.connections as u64 + 200)?;
    let _placement = server.place();
    let mut results = Vec::new();
    for count in &load.subscriptions {
        results.push(one(server, load, *count).await.with_context(|| format!("{count} subscriptions"))?);
    }
    Ok(results)
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
async fn one(server: &Running, load: &Load, count: usize) -> Result<Filtered> {
    let topic = fresh_topic("filter")?;
    let links = try_join_all((0..load.connections.max(1)).map(|index| {
        let users = (index..count).step_by(load.connections.max(1));
        subscribed(server, &topic, users)
    }))
    .await?;
    let publishing = Publishing {
        endpoint: &server.endpoint,
        transport: Transport::Ws,
        message: Message::Event(topic.clone()),
        connections: 1,
    };
    let mut session = Session::start(links, 1, &publishing).await?;
    let make = |sequence| user_payload(sequence, &user(spread(sequence, count)), load.payload);
    session.publish_for(Duration::from_secs(1), load.inflight, make).await.context("warming up")?;
    session.with_ledger(Ledger::start_measuring);
    let cpu = procfs::cpu_time(server.pid)?;
    let first = session.with_ledger(|ledger| ledger.published());
    let started = Instant::now();
    session.publish_for(Duration::from_secs(load.seconds), load.inflight, make).await.context("measuring")?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = procfs::cpu_time(server.pid)?.saturating_sub(cpu);
    Ok(session.with_ledger(|ledger| {
        let events = ledger.published() - first;
        Filtered {
            subscriptions: count,
            events,
            events_per_second: events as f64 / seconds,
            cpu_us_per_event: cpu.as_secs_f64() * 1e6 / events.max(1) as f64,
            latencies: ledger.latencies(),
            losses: ledger.losses_of_selected(),
        }
    }))
}

fn user(number: usize) -> String {
    format!("u{number}")
}

/// Walks over all users in an order that no cache foresees; the same in every run.
#[allow(clippy::cast_possible_truncation)] // the remainder is below a usize
fn spread(sequence: u64, count: usize) -> usize {
    (sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % count.max(1) as u64) as usize
}

async fn subscribed(server: &Running, topic: &str, users: impl Iterator<Item = usize>) -> Result<Link> {
    let mut link = Link::open(&server.endpoint, Transport::Ws, None).await?;
    let users: Vec<usize> = users.collect();
    for part in users.chunks(PIPELINE) {
        timeout(ANSWER_LIMIT, subscribe_all(&mut link, topic, part)).await.context("subscribing")??;
    }
    Ok(link)
}

/// Subscribes once for each user; what is over the server's message rate is asked again.
async fn subscribe_all(link: &mut Link, topic: &str, users: &[usize]) -> Result<()> {
    let mut open: Vec<u64> = users.iter().map(|user| *user as u64).collect();
    let writer = link.writer();
    while !open.is_empty() {
        for reference in &open {
            let filter = format!("{{\"userId\":\"u{reference}\"}}");
            let interest = Interest { topic, filter: Some(filter) };
            writer.queue_request("subscribe", &interest.fields(), Some(*reference));
        }
        writer.flush().await?;
        let mut again = Vec::new();
        for _ in 0..open.len() {
            match link.answer().await? {
                Answer::Done(_) => {}
                Answer::Refused { code, reference: Some(reference), .. } if code == "LIMIT_EXCEEDED" => {
                    again.push(reference);
                }
                Answer::Refused { text, .. } => bail!("the server refused a subscription: {text}"),
            }
        }
        if !again.is_empty() {
            // The rate is counted by the second.
            sleep(Duration::from_secs(1)).await;
        }
        open = again;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_spread_over_all_users() {
        let mut hits = [0_u32; 10];
        for sequence in 0..10_000 {
            hits[spread(sequence, 10)] += 1;
        }
        assert!(hits.iter().all(|count| (800..1_200).contains(count)), "{hits:?}");
        assert!(spread(u64::MAX, 100_000) < 100_000);
    }
}
