//! Publishing through Redis to the event log: events a second, and what an event costs Redis, beside a
//! script that only issues the same commands.

mod bare;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use tokio::task::JoinSet;

pub use bare::Bare;

use crate::host::ensure_open_files;
use crate::link::{Answer, Link, Transport};
use crate::procfs;
use crate::session::fresh_topic;
use crate::stage::{Cores, Mode, Options, Persistence, Stage};
use crate::wire::sequence::payload;

const WARM_UP: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is published.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Connections that publish, each to all topics in turn
    #[arg(long, default_value_t = 64)]
    pub publishers: usize,
    /// Events under way on each
    #[arg(long, default_value_t = 16)]
    pub window: usize,
    /// Numbers of topics, measured one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100])]
    pub topics: Vec<usize>,
    /// Size of the payload, in bytes of JSON
    #[arg(long, default_value_t = 200)]
    pub payload: usize,
    /// How long each is measured, after a second of warm-up
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Published {
    /// Topics.
    pub topics: usize,
    /// Connections that publish.
    pub publishers: usize,
    /// What Redis keeps.
    pub persistence: Persistence,
    /// Events acknowledged.
    pub events: u64,
    /// The same a second.
    pub events_per_second: f64,
    /// Events a script of the platform.
    pub events_per_script: f64,
    /// CPU time of the backend an event, in microseconds.
    pub cpu_us_per_event: f64,
    /// CPU time of Redis an event, in microseconds.
    pub redis_cpu_us_per_event: f64,
    /// The bare script.
    pub bare: Bare,
}

/// Measures each number of topics on a fresh platform, and then the bare script in the shape that its
/// appends had.
///
/// # Errors
/// Something does not start or refuses an event.
pub async fn measure(options: &Options, load: &Load) -> Result<Vec<Published>> {
    ensure_open_files(load.publishers as u64 + 200)?;
    let mut results = Vec::new();
    for topics in &load.topics {
        let stage = Stage::start(options, Mode::Redis, 1, Cores::All).await?;
        let measured = platform(&stage, load, *topics).await;
        let (seen, shape) = stage.explain(measured).with_context(|| format!("{topics} topics"))?;
        drop(stage);
        let bare =
            bare::measure(options.persistence, &shape, load.seconds).await.context("the bare script")?;
        results.push(seen.beside(options.persistence, load, bare));
    }
    Ok(results)
}

/// What was seen of the platform.
struct Seen {
    topics: usize,
    events: u64,
    seconds: f64,
    scripts: u64,
    cpu: Duration,
    redis_cpu: Duration,
}

impl Seen {
    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    fn beside(&self, persistence: Persistence, load: &Load, bare: Bare) -> Published {
        let events = self.events.max(1) as f64;
        Published {
            topics: self.topics,
            publishers: load.publishers,
            persistence,
            events: self.events,
            events_per_second: events / self.seconds,
            events_per_script: self.events_per_script(),
            cpu_us_per_event: self.cpu.as_secs_f64() * 1e6 / events,
            redis_cpu_us_per_event: self.redis_cpu.as_secs_f64() * 1e6 / events,
            bare,
        }
    }

    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    fn events_per_script(&self) -> f64 {
        self.events as f64 / self.scripts.max(1) as f64
    }
}

async fn platform(stage: &Stage, load: &Load, topics: usize) -> Result<(Seen, bare::Shape)> {
    let publishers = Publishers::start(stage, load, topics).await?;
    publishers.wait(WARM_UP).await?;
    let (redis, server) = (stage.redis()?, stage.backend().pid());
    let scripts = redis.calls("evalsha").await?;
    let (cpu, redis_cpu) = (procfs::cpu_time(server)?, procfs::cpu_time(redis.pid())?);
    let (events, started) = (publishers.acknowledged(), Instant::now());
    publishers.wait(Duration::from_secs(load.seconds)).await?;
    let (events, seconds) = (publishers.acknowledged() - events, started.elapsed().as_secs_f64());
    let cpu = procfs::cpu_time(server)?.saturating_sub(cpu);
    let redis_cpu = procfs::cpu_time(redis.pid())?.saturating_sub(redis_cpu);
    let scripts = redis.calls("evalsha").await? - scripts;
    drop(publishers);
    let seen = Seen { topics, events, seconds, scripts, cpu, redis_cpu };
    let shape = bare::Shape::read(redis, seen.events_per_script()).await?;
    Ok((seen, shape))
}

#[derive(Default)]
struct Shared {
    acknowledged: Cell<u64>,
    failure: RefCell<Option<anyhow::Error>>,
}

/// Connections that publish until they are dropped.
struct Publishers {
    shared: Rc<Shared>,
    // Aborts the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

impl Publishers {
    async fn start(stage: &Stage, load: &Load, topics: usize) -> Result<Self> {
        let shared = Rc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let topic = fresh_topic("publish")?;
        for first in 0..load.publishers {
            let link = Link::open(stage.backend().endpoint(), Transport::Ws, None).await?;
            let publisher =
                Publisher { link, topic: topic.clone(), topics, payload: load.payload, next: first };
            let (shared, window) = (Rc::clone(&shared), load.window);
            tasks.spawn_local(async move {
                if let Err(error) = publisher.run(window, &shared).await {
                    shared.failure.borrow_mut().get_or_insert(error);
                }
            });
        }
        Ok(Self { shared, _tasks: tasks })
    }

    fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.get()
    }

    /// Lets them publish for so long.
    async fn wait(&self, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
            if let Some(error) = self.shared.failure.borrow_mut().take() {
                return Err(error.context("a publisher"));
            }
        }
        Ok(())
    }
}

struct Publisher {
    link: Link,
    topic: String,
    topics: usize,
    payload: usize,
    next: usize,
}

impl Publisher {
    async fn run(mut self, window: usize, shared: &Shared) -> Result<()> {
        let writer = self.link.writer();
        self.queue(window);
        loop {
            writer.flush().await?;
            let (mut done, mut refused) = (0, None);
            self.link
                .pump(|text, _| match is_done(text) {
                    true => done += 1,
                    false => refused = refused_in(text).or(refused.take()),
                })
                .await?;
            if let Some(text) = refused {
                return Err(anyhow!("the server refused an event: {text}"));
            }
            shared.acknowledged.set(shared.acknowledged.get() + done as u64);
            self.queue(done);
        }
    }

    fn queue(&mut self, count: usize) {
        let writer = self.link.writer();
        for _ in 0..count {
            let topic = self.next % self.topics;
            let payload = payload(self.next as u64, self.payload);
            let fields = format!("\"topic\":\"{}.{topic}\",\"payload\":{payload}", self.topic);
            writer.queue_request("publish", &fields, Some(self.next as u64));
            self.next += 1;
        }
    }
}

/// Whether a text acknowledges a request, without parsing it.
fn is_done(text: &[u8]) -> bool {
    text.starts_with(b"{\"type\":\"ok\"")
}

fn refused_in(text: &[u8]) -> Option<String> {
    match Answer::read(text) {
        Some(Answer::Refused { text, .. }) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_by_event_and_scripts_by_size() {
        let seen = Seen {
            topics: 1,
            events: 2000,
            seconds: 2.0,
            scripts: 50,
            cpu: Duration::from_millis(40),
            redis_cpu: Duration::from_millis(20),
        };
        let load = Load { publishers: 4, window: 1, topics: vec![1], payload: 10, seconds: 2 };
        let bare = Bare { events_per_second: 1.0, redis_cpu_us_per_event: 5.0 };
        let published = seen.beside(Persistence::Always, &load, bare);
        assert_eq!((published.events_per_second, published.events_per_script), (1000.0, 40.0));
        assert_eq!((published.cpu_us_per_event, published.redis_cpu_us_per_event), (20.0, 10.0));
    }

    #[test]
    fn only_an_answer_acknowledges() {
        assert!(is_done(br#"{"type":"ok","ref":1,"id":"evt_1"}"#));
        assert!(!is_done(br#"{"type":"welcome"}"#));
        assert_eq!(refused_in(br#"{"type":"welcome"}"#), None);
        assert!(refused_in(br#"{"type":"error","ref":1,"code":"X"}"#).is_some());
    }
}
