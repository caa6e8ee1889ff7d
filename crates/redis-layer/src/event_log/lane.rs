//! The writer of one partition: what queues up while a batch is under way goes into the next one.
//!
//! One batch at a time is under way, so that order holds whatever happens to it. A batch whose answer was lost is
//! sent again under its number, which the server recognizes.

use super::{
    batch::{self, Address, Answer, Heads, Kind, Prepared},
    tally::Tally,
};
use crate::{
    connection::{Links, linked, run_script},
    documents::UnflushedDocuments,
    error::RedisError,
    generation::{Guard, Settled},
    keys::Partition,
    settings::RedisSettings,
};
use event_log::{LogError, Outcome, TopicKey};
use futures::future::{BoxFuture, FutureExt, Shared};
use metrics::Metrics;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Events in one script at most.
pub const BATCH_EVENTS: usize = 500;
/// Bytes in one script, beyond which no further part joins.
const BATCH_BYTES: usize = 1 << 20;
/// How long a batch is tried before its callers are told that the log does not answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to wait before a batch is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// Whether the other parts of a call allow this one to be appended.
pub type Verdict = Shared<BoxFuture<'static, Result<(), LogError>>>;

/// What one call appends to one partition.
pub struct Part {
    /// The entries, at most [`BATCH_EVENTS`].
    pub entries: Vec<Prepared>,
    /// Waited for before the part is appended.
    pub verdict: Option<Verdict>,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<Vec<Outcome>, LogError>>,
    /// When it was queued.
    pub queued: Instant,
    /// Why an earlier part of the same call in this partition was not appended. Then this one is not either: behind its
    /// positions the repeat of what is missing would look like something that the log already has.
    pub failed: Arc<OnceLock<LogError>>,
}

impl Part {
    /// Tells its caller what became of it.
    fn answer(self, outcome: Result<Vec<Outcome>, LogError>) {
        if let Err(error) = &outcome {
            // The first failure is the call's.
            let _ = self.failed.set(error.clone());
        }
        // A caller that went away does not want its answer; what was appended stays.
        let _ = self.reply.send(outcome);
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.event.len()).sum()
    }
}

/// What all lanes of a process share.
pub struct Shore {
    /// Where the server is.
    pub links: Links,
    /// The generation.
    pub guard: Arc<Guard>,
    /// What is kept how long.
    pub settings: RedisSettings,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether side-effect readers are too far behind.
    pub full: AtomicBool,
    /// What was appended by topic.
    pub tally: Tally,
    /// Topics whose history has a length of its own.
    pub own: Mutex<Arc<HashMap<TopicKey, Duration>>>,
    /// Turns at reading histories.
    pub pages: Semaphore,
    /// This writer's name.
    pub writer: String,
    /// How many documents wait for the archive.
    pub unflushed: UnflushedDocuments,
}

/// The task's state.
pub struct Lane {
    partition: Partition,
    shore: Arc<Shore>,
    queue: mpsc::Receiver<Part>,
    held: Option<Part>,
    number: u64,
    heads: Heads,
    /// Keeps the connections open until the lane is done.
    _user: mpsc::Sender<()>,
}

impl Lane {
    /// A lane that takes from `queue`.
    pub fn new(
        partition: Partition,
        shore: Arc<Shore>,
        queue: mpsc::Receiver<Part>,
        user: mpsc::Sender<()>,
    ) -> Self {
        Self { partition, shore, queue, held: None, number: 0, heads: Heads::default(), _user: user }
    }

    /// Runs until `stop`, then appends what is still queued.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = match self.held.take() {
                Some(part) => Some(part),
                None => tokio::select! {
                    biased;
                    part = self.queue.recv() => part,
                    () = stop.cancelled() => {
                        self.queue.close();
                        self.queue.recv().await
                    }
                },
            };
            let Some(first) = first else { return };
            let parts = self.gather(first).await;
            if !parts.is_empty() {
                self.append(parts).await;
            }
        }
    }

    /// Takes what has queued up, within the bounds of a script. A part that must wait for its verdict waits as the
    /// first of its batch, so that it holds up nothing that came before it.
    async fn gather(&mut self, first: Part) -> Vec<Part> {
        let (mut parts, mut events, mut bytes) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        while let Some(mut part) = next.take() {
            if !parts.is_empty() && (part.verdict.is_some() || events + part.entries.len() > BATCH_EVENTS) {
                self.held = Some(part);
                break;
            }
            let verdict = part.verdict.take();
            let refused = match (part.failed.get(), verdict) {
                (Some(error), _) => Some(error.clone()),
                _ if self.shore.full.load(Ordering::Relaxed) => Some(LogError::BacklogFull),
                (None, Some(verdict)) => verdict.await.err(),
                (None, None) => None,
            };
            match refused {
                Some(error) => part.answer(Err(error)),
                None => {
                    events += part.entries.len();
                    bytes += part.bytes();
                    parts.push(part);
                }
            }
            if events < BATCH_EVENTS && bytes < BATCH_BYTES {
                next = self.queue.try_recv().ok();
            }
        }
        parts
    }

    async fn append(&mut self, parts: Vec<Part>) {
        let started = Instant::now();
        let deadline = parts.iter().map(|part| part.queued).min().unwrap_or(started) + PATIENCE;
        self.number += 1;
        match self.send(&parts, deadline).await {
            Ok(answer) => {
                self.heads.learn(answer.heads);
                let metrics = &self.shore.metrics;
                metrics.appends.inc_by(answer.appended as u64);
                metrics.append_batch_size.observe(answer.appended as f64);
                metrics.append_seconds.observe(started.elapsed().as_secs_f64());
                parts.into_iter().zip(answer.outcomes).for_each(|(part, outcome)| part.answer(outcome));
            }
            Err(error) => {
                tracing::warn!(%error, log.partition = self.partition.0, "could not append to the event log");
                parts.into_iter().for_each(|part| part.answer(Err(error.clone())));
            }
        }
    }

    /// Sends the batch until it is answered, or `deadline` has passed.
    async fn send(&self, parts: &[Part], deadline: Instant) -> Result<Answer, LogError> {
        let requests: Vec<&[Prepared]> = parts.iter().map(|part| part.entries.as_slice()).collect();
        let entries = requests.iter().copied().flatten();
        let renewed = self.shore.tally.count(entries.map(|entry| (&entry.key, entry.event.len())));
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let settled = self
                .shore
                .guard
                .settled(patience)
                .await
                .inspect_err(|_| self.shore.tally.not_renewed(&renewed))?;
            let error = match self.try_once(&settled, &requests, &renewed).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) | Err(RedisError::UnknownScript) => {
                    self.shore.guard.doubt(&settled);
                    continue;
                }
                Err(error) => error,
            };
            let is_over = Instant::now() + RETRY >= deadline;
            if is_over || matches!(error, RedisError::Internal(_)) {
                self.shore.tally.not_renewed(&renewed);
                return Err(error.into());
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends the batch once; `None` where its generation is no longer the server's.
    async fn try_once(
        &self,
        settled: &Arc<Settled>,
        requests: &[&[Prepared]],
        renewed: &HashSet<TopicKey>,
    ) -> Result<Option<Answer>, RedisError> {
        let link = linked(&self.shore.links, PATIENCE).await?;
        let own = self.shore.own.lock().clone();
        let address = Address {
            partition: self.partition,
            writer: &self.shore.writer,
            number: self.number,
            settled,
            announcing: link.announcing,
            settings: &self.shore.settings,
            own: &own,
            now_ms: now_ms(),
        };
        let batch = batch::write(&address, requests, renewed, &self.heads);
        let script = match batch.kind {
            Kind::Plain => &settled.scripts.append,
            Kind::Marked => &settled.scripts.append_marked,
        };
        let answer = run_script(&link.writes, script, self.partition, batch.keys, batch.arguments).await?;
        let text = answer.as_str().unwrap_or_default();
        match &*text {
            "G" => Ok(None),
            "S" => Err(RedisError::Internal("the batch was overtaken by a later one".to_owned())),
            text => {
                let answer = batch::read(text, &batch.topics, requests)
                    .map_err(|error| RedisError::Internal(error.to_string()))?;
                self.shore.guard.acknowledge(settled, self.partition, answer.sequence);
                Ok(Some(answer))
            }
        }
    }
}

/// Makes a verdict of a check that several parts wait for.
pub fn verdict(check: BoxFuture<'static, Result<(), LogError>>) -> Verdict {
    check.shared()
}

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
