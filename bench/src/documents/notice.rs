//! From a document's write to its event in a client, one write at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::workload::{Workload, mark};
use crate::accounting::{Latencies, LatencyRecorder};
use crate::link::{Answer, Interest, Link, Transport};
use crate::requests::Caller;
use crate::stage::{Mode, Stage};

const EVENT_LIMIT: Duration = Duration::from_secs(10);
/// Between two writes: each has the machine to itself.
const PAUSE: Duration = Duration::from_millis(10);
/// Writes before the first that counts.
const WARM_UP: u64 = 20;
/// Beyond the numbers of all other writes.
const FIRST: u64 = 1 << 39;

/// The way of single writes.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// What stands behind the backend.
    pub mode: Mode,
    /// Writes timed.
    pub writes: u64,
    /// From sending the request until a client has read the event.
    pub latencies: Latencies,
    /// From sending the request until its answer is read.
    pub answers: Latencies,
}

/// Writes one document again and again, and waits for each event at a plain WebSocket.
pub async fn measure(stage: &Stage, mode: Mode, workload: &Workload, writes: u64) -> Result<Notice> {
    let endpoint = stage.backend().endpoint();
    let topic = format!("sync.{}.updated", workload.spread.service(0));
    let mut link = Link::open(endpoint, Transport::Ws, None).await?;
    link.subscribe(&Interest { topic: &topic, filter: None }).await?;
    let mut caller = Caller::open(&endpoint.address).await?;
    // What other measurements wrote must not stand in the way.
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    let (mut arrivals, mut answers) = (LatencyRecorder::new(), LatencyRecorder::new());
    for number in 0..WARM_UP + writes {
        let request = workload.merge_into(0, FIRST + number);
        let sent = Instant::now();
        let answer = async {
            caller.call(&request).await?;
            Ok(sent.elapsed())
        };
        let event = timeout(EVENT_LIMIT, event(&mut link, FIRST + number));
        let event = async { event.await.context("no event for a write")? };
        let (answered, arrived) = tokio::try_join!(answer, event)?;
        if number >= WARM_UP {
            answers.note(answered);
            arrivals.note(arrived.duration_since(sent));
        }
        sleep(PAUSE).await;
    }
    let (latencies, answers) = (arrivals.latencies(), answers.latencies());
    Ok(Notice { mode, writes: arrivals.count(), latencies, answers })
}

/// Waits for the event of a write.
async fn event(link: &mut Link, number: u64) -> Result<Instant> {
    let wanted = mark(number);
    loop {
        let (mut arrived, mut refused) = (None, None);
        link.pump(|text, at| {
            if text.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
                arrived = Some(at);
            } else if let Some(Answer::Refused { text, .. }) = Answer::read(text) {
                refused = Some(text);
            }
        })
        .await?;
        if let Some(text) = refused {
            bail!("the server said: {text}");
        }
        if let Some(at) = arrived {
            return Ok(at);
        }
    }
}
