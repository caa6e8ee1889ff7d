//! What becomes of connections and members, as events that side-effect readers get at least once.
//!
//! Owns the queue between connections and the log. Nothing in it is ever dropped: what a connection's end adds to it
//! always finds room, and where it is long because the log does not answer, nobody new is let in. Each connection is
//! written down in the presence store before its `socket.connect` is appended, and removed behind its
//! `socket.disconnect`, so that whoever finds this instance dead can say what went with it ([`dead`]).

mod dead;
mod form;

pub use form::{ConnectionRecord, SERVER_LOST, presence, reason_of};

use event_router::{EventRouter, Routed};
use metrics::Metrics;
use parking_lot::Mutex;
use presence::{Presence, PresenceError, Record};
use shared_types::Problem;
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Events appended at a time.
const BATCH: usize = 500;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_millis(200);
/// From so many waiting events on, nobody new is let in.
const MANY: usize = 50_000;
/// From so many waiting bytes on.
const MUCH: usize = 64 << 20;

/// Why a batch was not written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Store(#[from] PresenceError),
    #[error("{0}")]
    Log(#[from] event_log::LogError),
}

/// Something that happened, on its way to the log.
#[derive(Clone)]
struct Happening {
    event: Routed,
    /// Written down before the event is appended.
    hold: Option<Record>,
    /// Removed behind it, by its key.
    release: Option<String>,
}

impl Happening {
    fn size(&self) -> usize {
        self.event.draft.payload.as_str().len() + 512
    }
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Happening>,
    bytes: usize,
}

/// The way of this instance's happenings to the log.
pub struct Lifecycle {
    instance: String,
    router: EventRouter,
    store: Arc<dyn Presence>,
    metrics: Arc<Metrics>,
    waiting: Mutex<Waiting>,
    grown: Notify,
    idle: Notify,
    /// Whether this instance is known to live: before, what it writes down would be taken for a dead one's.
    leased: watch::Sender<bool>,
}

impl Lifecycle {
    /// The happenings of `instance`; [`Lifecycle::run`] appends them.
    pub fn new(
        instance: String,
        router: EventRouter,
        store: Arc<dyn Presence>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (grown, idle, leased) = (Notify::new(), Notify::new(), watch::Sender::new(false));
        Arc::new(Self { instance, router, store, metrics, waiting: Mutex::default(), grown, idle, leased })
    }

    /// Whether there is room for what a new connection or member makes happen.
    ///
    /// # Errors
    /// `UNAVAILABLE` while too much waits for the log.
    pub fn demand_room(&self) -> Result<(), Problem> {
        let waiting = self.waiting.lock();
        if waiting.queue.len() < MANY && waiting.bytes < MUCH {
            return Ok(());
        }
        Err(Problem::unavailable("the event log does not keep up; try again"))
    }

    /// A connection was let in, or is written down anew.
    pub fn connected(&self, record: &ConnectionRecord) {
        let hold = Some(Record { key: record.key(), text: record.text() });
        self.push(Happening { event: form::connected(record), hold, release: None });
    }

    /// A connection has ended.
    pub fn disconnected(&self, record: &ConnectionRecord, reason: &str) {
        let event = form::disconnected(record, reason);
        self.push(Happening { event, hold: None, release: Some(record.key()) });
    }

    /// Something else happened.
    pub fn happened(&self, event: Routed) {
        self.push(Happening { event, hold: None, release: None });
    }

    /// This instance holds its lease.
    pub fn leased(&self) {
        self.leased.send_replace(true);
    }

    /// Whether it ever did.
    pub fn is_leased(&self) -> bool {
        *self.leased.borrow()
    }

    fn push(&self, happening: Happening) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += happening.size();
        waiting.queue.push_back(happening);
        self.metrics.lifecycle_waiting.set(waiting.queue.len() as i64);
        drop(waiting);
        self.grown.notify_one();
    }

    /// Appends what happens, in order, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async {
            let mut leased = self.leased.subscribe();
            // Fails only where this is gone.
            let _ = leased.wait_for(|leased| *leased).await;
            loop {
                self.write_all().await;
                self.grown.notified().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Waits for everything that happened to be in the log, at most until `until`. What is left then is said by whoever
    /// finds this instance gone.
    pub async fn finish(&self, until: Instant) {
        let done = async {
            loop {
                let idle = self.idle.notified();
                if self.waiting.lock().queue.is_empty() {
                    return;
                }
                idle.await;
            }
        };
        if tokio::time::timeout_at(until, done).await.is_err() {
            let waiting = self.waiting.lock().queue.len();
            tracing::warn!(
                waiting,
                "not all connections' ends were written before the stop; others say them"
            );
        }
    }

    async fn write_all(&self) {
        loop {
            let batch: Vec<Happening> = self.waiting.lock().queue.iter().take(BATCH).cloned().collect();
            if batch.is_empty() {
                self.idle.notify_waiters();
                return;
            }
            if let Err(error) = self.write(&batch).await {
                tracing::warn!(%error, events = batch.len(), "connections' events could not be appended; trying on");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let mut waiting = self.waiting.lock();
            waiting.queue.drain(..batch.len());
            waiting.bytes -= batch.iter().map(Happening::size).sum::<usize>();
            self.metrics.lifecycle_waiting.set(waiting.queue.len() as i64);
        }
    }

    /// Writes a batch. One that fails half way is written again: its events have the ids that they had.
    async fn write(&self, batch: &[Happening]) -> Result<(), Failure> {
        let ended: HashSet<&str> = batch.iter().filter_map(|one| one.release.as_deref()).collect();
        let holds: Vec<Record> = batch.iter().filter_map(|one| one.hold.clone()).collect();
        let begun: HashSet<String> = holds.iter().map(|record| record.key.clone()).collect();
        let holds: Vec<Record> =
            holds.into_iter().filter(|record| !ended.contains(record.key.as_str())).collect();
        if !holds.is_empty() {
            self.store.hold(&self.instance, holds).await?;
        }
        self.router.route(batch.iter().map(|one| one.event.clone()).collect()).await?;
        let released: Vec<String> =
            ended.into_iter().filter(|key| !begun.contains(*key)).map(str::to_owned).collect();
        if !released.is_empty() {
            self.store.release(&self.instance, released).await?;
        }
        Ok(())
    }
}
