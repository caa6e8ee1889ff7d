//! One shard of the hub: a task that owns its topics.

use crate::{
    hub::Subscribe,
    index::Subscription,
    live_event::LiveEvent,
    message::LiveMessage,
    outgoing::{Control, ReplyTo},
    route::now_ms,
    topic::{Join, Need, PAGE, Topic},
    writer::Writer,
};
use event_log::{EventLog, HistoryPage, HistoryQuery, LiveWatch, LogError, Start, TopicKey};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metrics::Metrics;
use shared_types::{Position, SubscriptionId};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often subscriptions that are behind are told where their topic stands.
const POSITIONS: Duration = Duration::from_secs(30);
/// How often topics that nobody wants are looked for, and how long they are kept.
const SWEEP: Duration = Duration::from_secs(5);
/// How long to wait before a read that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Deliveries in a row after which other tasks get their turn: a few milliseconds. Fewer would have connections
/// written to after each event, where one write could carry many.
const TURN: usize = 16_384;

/// What a shard is told.
pub enum Command {
    /// Events of its topics, in order.
    Events(Vec<Arc<LiveEvent>>),
    /// A new subscription.
    Subscribe(Subscribe),
    /// Something said under a topic's key.
    Message(Arc<LiveMessage>),
    /// A topic that may stand in another epoch.
    Renewed(TopicKey),
    /// A connection that wants to hear what is said.
    Join(TopicKey, Join),
    /// One that no longer does, by its number.
    Part(TopicKey, u64),
    /// The end of one, with an answer.
    Unsubscribe(Arc<Subscription>, ReplyTo),
    /// The end of a connection's subscriptions.
    Leave(Vec<(TopicKey, SubscriptionId)>),
}

/// A read that is done.
enum Done {
    Opened(TopicKey, Result<Position, LogError>),
    Filled(TopicKey, Result<HistoryPage, LogError>),
    Recovered(TopicKey, SubscriptionId, Result<HistoryPage, LogError>),
    Head(TopicKey, SubscriptionId, Result<Position, LogError>),
    Retry(TopicKey, Position),
}

/// The shard task's state.
pub struct Shard {
    log: Arc<dyn EventLog>,
    watch: Arc<dyn LiveWatch>,
    metrics: Arc<Metrics>,
    commands: mpsc::Receiver<Command>,
    topics: HashMap<TopicKey, Topic, ahash::RandomState>,
    reads: FuturesUnordered<BoxFuture<'static, Done>>,
    writers: Arc<[Arc<Writer>]>,
}

impl Shard {
    /// A shard that takes `commands`.
    pub fn new(
        log: Arc<dyn EventLog>,
        watch: Arc<dyn LiveWatch>,
        metrics: Arc<Metrics>,
        commands: mpsc::Receiver<Command>,
        writers: Arc<[Arc<Writer>]>,
    ) -> Self {
        let (topics, reads) = (HashMap::default(), FuturesUnordered::new());
        Self { log, watch, metrics, commands, topics, reads, writers }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut positions = tokio::time::interval(POSITIONS);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                Some(done) = self.reads.next() => self.read(done),
                _ = positions.tick() => self.topics.values_mut().for_each(Topic::tell_positions),
                _ = sweep.tick() => self.sweep(),
            }
            self.wake_writers();
        }
    }

    fn wake_writers(&self) {
        self.writers.iter().for_each(|writer| writer.wake());
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Events(events) => self.deliver(events).await,
            Command::Subscribe(subscribe) => self.subscribe(subscribe),
            Command::Message(message) => {
                if let Some(topic) = self.topics.get_mut(&message.key) {
                    topic.message(&message);
                }
            }
            Command::Renewed(key) => {
                if let Some(topic) = self.topics.get_mut(&key) {
                    let needs = topic.renewed();
                    self.serve(&key, needs);
                }
            }
            Command::Join(key, join) => self.join(key, join),
            Command::Part(key, connection) => {
                if let Some(topic) = self.topics.get_mut(&key) {
                    topic.part(connection);
                }
            }
            Command::Unsubscribe(subscription, reply) => {
                self.end(&subscription.key, &subscription.id);
                subscription.outbox.control(reply, Control::Done(String::new()));
            }
            Command::Leave(gone) => gone.iter().for_each(|(key, id)| self.end(key, id)),
        }
    }

    async fn deliver(&mut self, events: Vec<Arc<LiveEvent>>) {
        let now = now_ms();
        let mut turn = 0;
        for event in events {
            let Some(topic) = self.topics.get_mut(&event.event().key) else { continue };
            turn += topic.members() + 1;
            let needs = topic.event(event.clone());
            self.metrics.broadcast_latency.observe(age_seconds(&event, now));
            let key = event.event().key.clone();
            self.serve(&key, needs);
            if turn >= TURN {
                turn = 0;
                self.wake_writers();
                tokio::task::yield_now().await;
            }
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        let key = subscribe.subscription.key.clone();
        let (topic, open) = self.topic(&key);
        let need = topic.subscribe(subscribe);
        self.serve(&key, open.into_iter().chain(need));
    }

    fn join(&mut self, key: TopicKey, join: Join) {
        let (topic, open) = self.topic(&key);
        topic.join(join);
        self.serve(&key, open);
    }

    /// The topic, and the need to open it where it is new.
    fn topic(&mut self, key: &TopicKey) -> (&mut Topic, Option<Need>) {
        let open = (!self.topics.contains_key(key)).then_some(Need::Open);
        let metrics = &self.metrics;
        let topic =
            self.topics.entry(key.clone()).or_insert_with(|| Topic::new(key.clone(), metrics.clone()));
        (topic, open)
    }

    fn end(&mut self, key: &TopicKey, id: &SubscriptionId) {
        if let Some(topic) = self.topics.get_mut(key) {
            topic.unsubscribe(id);
        }
    }

    /// Starts the reads that a topic needs.
    fn serve(&mut self, key: &TopicKey, needs: impl IntoIterator<Item = Need>) {
        for need in needs {
            let key = key.clone();
            let read: BoxFuture<'static, Done> = match need {
                Need::Open => {
                    let opening = self.watch.watch(vec![key.clone()]);
                    Box::pin(async move { Done::Opened(key, opening.await.map(|mut heads| heads.remove(0))) })
                }
                Need::Fill(from) => {
                    let page = self.log.history(&key, query(from, None));
                    Box::pin(async move { Done::Filled(key, page.await) })
                }
                Need::Recover(id, from, until) => {
                    let page = self.log.history(&key, query(from, Some(until)));
                    Box::pin(async move { Done::Recovered(key, id, page.await) })
                }
                Need::Head(id) => {
                    let head = self.log.head(&key);
                    Box::pin(async move { Done::Head(key, id, head.await) })
                }
                Need::Nudge => {
                    self.watch.nudge(&key);
                    continue;
                }
            };
            self.reads.push(read);
        }
    }

    fn read(&mut self, done: Done) {
        let (key, needs): (TopicKey, Vec<Need>) = match done {
            Done::Opened(key, head) => {
                let Some(topic) = self.topics.get_mut(&key) else { return };
                let needs = match head {
                    Ok(head) => topic.opened(head),
                    Err(error) => {
                        tracing::warn!(%error, topic.name = %key.topic, "could not open a topic");
                        topic.failed(&error);
                        self.topics.remove(&key);
                        return;
                    }
                };
                (key, needs)
            }
            Done::Filled(key, page) => {
                let Some(topic) = self.topics.get_mut(&key) else { return };
                let needs = match page {
                    Ok(page) => topic.filled(page),
                    Err(error) => {
                        tracing::warn!(%error, topic.name = %key.topic, "could not fill a gap; trying again");
                        let from = topic.position().clone();
                        self.reads.push(Box::pin(async move {
                            tokio::time::sleep(RETRY).await;
                            Done::Retry(key, from)
                        }));
                        return;
                    }
                };
                (key, needs)
            }
            Done::Recovered(key, id, page) => {
                if let Some(topic) = self.topics.get_mut(&key) {
                    topic.page_read(&id, page);
                }
                return;
            }
            Done::Head(key, id, head) => {
                let Some(topic) = self.topics.get_mut(&key) else { return };
                let needs = topic.head_read(&id, head);
                (key, needs)
            }
            Done::Retry(key, from) => (key, vec![Need::Fill(from)]),
        };
        self.serve(&key, needs);
    }

    /// Drops topics that nobody has wanted for a while.
    fn sweep(&mut self) {
        let now = Instant::now();
        let idle: Vec<TopicKey> = self
            .topics
            .iter_mut()
            .filter_map(|(key, topic)| topic.idle(now).filter(|idle| *idle >= SWEEP).map(|_| key.clone()))
            .collect();
        if !idle.is_empty() {
            idle.iter().for_each(|key| drop(self.topics.remove(key)));
            self.watch.unwatch(idle);
        }
    }
}

fn query(from: Position, until: Option<u64>) -> HistoryQuery {
    HistoryQuery { start: Start::After(from), until, limit: PAGE }
}

/// How long ago the event was made, in seconds, by its own timestamp.
fn age_seconds(event: &LiveEvent, now_ms: i64) -> f64 {
    let metadata = event.event().metadata.as_str();
    let digits = metadata.strip_prefix("{\"timestamp\":").map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        &rest[..end]
    });
    let made = digits.and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(now_ms);
    (now_ms - made).max(0) as f64 / 1_000.0
}
