//! The reconnect storm: all clients lose their backend at once, reconnect to another one, and recover what
//! they missed.
//!
//! The first backend is made to stand still, events are published through the second, and then the first is
//! killed: so every client has missed the same number of events at the moment at which its connection breaks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::accounting::{Latencies, LatencyRecorder};
use crate::host::ensure_open_files;
use crate::link::{Endpoint, Link, Transport};
use crate::rows::Rest;
use crate::session::fresh_topic;
use crate::stage::{Cores, Mode, Options, Stage};

/// Clients that connect at a time before the storm.
const OPENING: usize = 64;
/// Who is refused tries again after this long.
const RETRY: Duration = Duration::from_millis(200);
/// Who is not done by then has not recovered.
const LIMIT: Duration = Duration::from_secs(60);

/// Who loses what.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Clients, each with one subscription
    #[arg(long, default_value_t = 5000)]
    pub clients: usize,
    /// Topics over which they are spread
    #[arg(long, default_value_t = 100)]
    pub topics: usize,
    /// Events that each topic gets while they are cut off
    #[arg(long, default_value_t = 100)]
    pub missed: u64,
    /// Size of an event's payload, in bytes of JSON
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
}

/// One storm.
#[derive(Debug, Clone, Serialize)]
pub struct Storm {
    /// What stands behind the backends.
    pub mode: Mode,
    /// Clients.
    pub clients: usize,
    /// Topics.
    pub topics: usize,
    /// Events that each client missed.
    pub missed: u64,
    /// Clients that recovered all of them, in order and once.
    pub recovered: u64,
    /// Attempts to connect or to subscribe that were refused, broke, or were not answered in time.
    pub refused: u64,
    /// The first refusal's text.
    pub first_refusal: Option<String>,
    /// From the kill until a client has recovered, of all that have.
    pub latencies: Latencies,
}

/// Measures one storm.
///
/// # Errors
/// A backend does not start, or something goes wrong before the kill.
pub async fn measure(options: &Options, mode: Mode, load: &Load) -> Result<Storm> {
    // Both ends of the load generator's connections, and those that are about to close.
    ensure_open_files(2 * load.clients as u64 + 500)?;
    let mut stage = Stage::start(options, mode, 2, Cores::All).await?;
    let measured = storm(&mut stage, mode, load).await;
    stage.explain(measured)
}

async fn storm(stage: &mut Stage, mode: Mode, load: &Load) -> Result<Storm> {
    let doomed = stage.take_backend()?;
    let refuge = stage.backend().endpoint().clone();
    let prefix = fresh_topic("storm")?;
    let topics: Vec<String> = (0..load.topics).map(|topic| format!("{prefix}.{topic}")).collect();
    let opening =
        (0..load.clients).map(|index| Client::open(doomed.endpoint(), &topics[index % topics.len()]));
    let clients: Vec<Client> = stream::iter(opening).buffer_unordered(OPENING).try_collect().await?;
    doomed.freeze();
    let rest = Rest::new(&refuge)?;
    for topic in &topics {
        rest.post("/api/events", events(topic, load)).await.context("publishing what they miss")?;
    }
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut tasks = JoinSet::new();
    let killed = Instant::now();
    for client in clients {
        tasks.spawn_local(client.survive(refuge.clone(), load.missed, killed, Rc::clone(&tally)));
    }
    doomed.kill().await?;
    // Who is not done in time stays uncounted.
    let _ = timeout(LIMIT, async { while tasks.join_next().await.is_some() {} }).await;
    drop(tasks);
    let tally = tally.take();
    Ok(Storm {
        mode,
        clients: load.clients,
        topics: load.topics,
        missed: load.missed,
        recovered: tally.times.count(),
        refused: tally.refused,
        first_refusal: tally.first_refusal,
        latencies: tally.times.latencies(),
    })
}

fn events(topic: &str, load: &Load) -> Value {
    let payload =
        |number| serde_json::from_str::<Value>(&crate::wire::sequence::payload(number, load.payload));
    let events = (1..=load.missed)
        .map(|number| json!({ "topic": topic, "payload": payload(number).unwrap_or_default() }));
    Value::Array(events.collect())
}

#[derive(Debug, Default)]
struct Tally {
    times: LatencyRecorder,
    refused: u64,
    first_refusal: Option<String>,
}

impl Tally {
    fn refuse(&mut self, error: &anyhow::Error) {
        self.refused += 1;
        self.first_refusal.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// One client and how far it has come.
struct Client {
    link: Link,
    topic: String,
    epoch: String,
    offset: u64,
}

impl Client {
    async fn open(endpoint: &Endpoint, topic: &str) -> Result<Self> {
        let mut link = Link::open(endpoint, Transport::Ws, None).await?;
        let text = link.ask("subscribe", &format!("\"topic\":\"{topic}\"")).await?;
        let Subscribed { epoch, offset, .. } = serde_json::from_slice(&text)?;
        Ok(Self { link, topic: topic.to_owned(), epoch, offset })
    }

    /// Waits until its connection breaks, and gets itself another one.
    async fn survive(mut self, refuge: Endpoint, missed: u64, killed: Instant, tally: Rc<RefCell<Tally>>) {
        while self.link.pump(|_, _| ()).await.is_ok() {}
        loop {
            match self.recover(&refuge, missed).await {
                Ok(()) => return tally.borrow_mut().times.note(killed.elapsed()),
                Err(error) => tally.borrow_mut().refuse(&error),
            }
            sleep(RETRY).await;
        }
    }

    async fn recover(&mut self, refuge: &Endpoint, missed: u64) -> Result<()> {
        let mut link = Link::open(refuge, Transport::Ws, None).await?;
        let (mut recovered, mut subscription) = (Recovered::after(self.offset), String::new());
        loop {
            let since = format!("{{\"epoch\":\"{}\",\"offset\":{}}}", self.epoch, recovered.offset);
            let fields = format!("\"topic\":\"{}\",\"since\":{since}{subscription}", self.topic);
            let answer = serde_json::from_slice(&link.ask("subscribe", &fields).await?)?;
            if recovered.take(&answer)? {
                break;
            }
            subscription = format!(",\"subscriptionId\":\"{}\"", answer.subscription_id);
        }
        if recovered.offset != self.offset + missed {
            bail!("recovered up to {} and not to {}", recovered.offset, self.offset + missed);
        }
        self.link = link;
        Ok(())
    }
}

/// An answer to `subscribe`, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscribed {
    subscription_id: String,
    epoch: String,
    offset: u64,
    recovered: bool,
    #[serde(default)]
    more: bool,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    offset: u64,
}

/// How far a recovery has come, page by page.
#[derive(Debug)]
struct Recovered {
    offset: u64,
}

impl Recovered {
    const fn after(offset: u64) -> Self {
        Self { offset }
    }

    /// Takes one page; true when it is the last.
    fn take(&mut self, page: &Subscribed) -> Result<bool> {
        if !page.recovered {
            bail!("the server has no history back to {}", self.offset);
        }
        for event in &page.events {
            if event.metadata.offset != self.offset + 1 {
                bail!("{} follows {}", event.metadata.offset, self.offset);
            }
            self.offset = event.metadata.offset;
        }
        Ok(!page.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(offsets: &[u64], recovered: bool, more: bool) -> Subscribed {
        let events: Vec<Value> =
            offsets.iter().map(|offset| json!({ "id": "evt_1", "metadata": { "offset": offset } })).collect();
        let page = json!({
            "type": "subscribed", "subscriptionId": "sub_1", "epoch": "e", "offset": 9, "recovered": recovered,
            "more": more, "events": events,
        });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn pages_follow_one_another_without_a_gap() {
        let mut recovered = Recovered::after(3);
        assert!(!recovered.take(&page(&[4, 5], true, true)).unwrap());
        assert!(recovered.take(&page(&[6], true, false)).unwrap());
        assert_eq!(recovered.offset, 6);
    }

    #[test]
    fn what_is_missing_repeated_or_lost_is_no_recovery() {
        assert!(Recovered::after(3).take(&page(&[4, 6], true, false)).is_err());
        assert!(Recovered::after(3).take(&page(&[4, 4], true, false)).is_err());
        assert!(Recovered::after(3).take(&page(&[], false, false)).is_err());
    }

    #[test]
    fn refusals_are_counted_and_the_first_is_kept() {
        let mut tally = Tally::default();
        tally.refuse(&anyhow::anyhow!("one"));
        tally.refuse(&anyhow::anyhow!("two"));
        assert_eq!((tally.refused, tally.first_refusal.as_deref()), (2, Some("one")));
    }

    #[test]
    fn a_topic_gets_as_many_events_as_are_missed() {
        let load = Load { clients: 1, topics: 1, missed: 3, payload: 64 };
        let events = events("t", &load);
        assert_eq!(events.as_array().unwrap().len(), 3);
        assert_eq!(events[2]["payload"]["seq"], "000000000003");
    }
}
