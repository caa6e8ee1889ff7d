//! One leader's reading of one target: prepare, stream, append, confirm, and again after a failure.

use crate::{
    appends::Appends,
    backfill::Backfill,
    caretaker::{Caretaker, Prepared},
    pgoutput::{Malformed, Message},
    plan::{Place, Plan, Relations, Tally, Witness},
    recorder::{Recorder, RecorderSource},
    snapshots::{Snapshots, ToStream},
    status::Status,
    stream::{Frame, Opening, ReplicationStream},
    target::{self, Names, TargetUrl},
    trouble::{OTHER_CLUSTER, Trouble},
};
use bytes::Bytes;
use database::tables::cdc::ReaderState;
use event_log::LogError;
use event_router::{EventRouter, now_ms};
use metrics::Metrics;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// The first pause after a failure; twice that each time.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a stream must have run for the next failure to count as a first one.
const HEALTHY: Duration = Duration::from_secs(10);
/// How often a moved position is confirmed.
const CONFIRM: Duration = Duration::from_millis(250);
/// How often the server is told that this side lives, whatever happens.
const ALIVE: Duration = Duration::from_secs(2);
/// How long a stream that is being opened may take to let go of its slot when stopping.
const LET_GO: Duration = Duration::from_secs(2);
/// What a backfill may say before the stream listens: a chunk's beginning and its rows.
const TO_STREAM: usize = 4;
/// Frames between two looks at everything else.
const DRAIN: usize = 512;

/// Why a leader's reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// Another leader has appended in a later term.
    Fenced,
    /// The URL now leads to another cluster.
    OtherCluster,
}

/// Why a stream ended.
enum Failure {
    Trouble(Trouble),
    Fenced,
    OtherCluster,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        if trouble.code == OTHER_CLUSTER { Self::OtherCluster } else { Self::Trouble(trouble) }
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Trouble(Trouble::new("PROTOCOL", error.to_string(), "report it with the server's version"))
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Fenced { .. } => Self::Fenced,
            // What was on its way is read again from the last confirmed position, under the same identities.
            error => Self::Trouble(Trouble::platform(error)),
        }
    }
}

/// Reads one target for as long as this process leads it.
pub(crate) struct Reader {
    pub router: EventRouter,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub caretaker: Caretaker,
    pub names: Names,
    pub term: u64,
    /// Writes down what becomes of each change.
    pub recorder: RecorderSource,
    /// The stream that is being opened.
    pub opening: Option<Opening>,
}

impl Reader {
    /// Reads until `stop`, through every failure that passes.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let ended = tokio::select! {
            ended = self.read() => ended,
            () = stop.cancelled() => Ended::Stopped,
        };
        // Whoever reads next must find the slot free.
        if let Some(opening) = self.opening.take() {
            opening.abandon(LET_GO).await;
        }
        ended
    }

    async fn read(&mut self) -> Ended {
        let mut failures = 0;
        loop {
            self.status.set(ReaderState::Connecting, None);
            let begun = Instant::now();
            let failure = match self.attempt().await {
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(failure) => failure,
            };
            let trouble = match failure {
                Failure::Fenced => return Ended::Fenced,
                Failure::OtherCluster => return Ended::OtherCluster,
                Failure::Trouble(trouble) => trouble,
            };
            self.metrics.cdc_interruptions.inc();
            self.caretaker.consider(&trouble);
            failures = if begun.elapsed() > HEALTHY { 1 } else { failures + 1 };
            tracing::warn!(%trouble, cdc.slot = %self.names.slot, failures, "the reader stopped reading; it tries again");
            self.status.set(ReaderState::Error, Some(trouble));
            // While nothing is read the target keeps more and more for the slot.
            if let Err(trouble) = self.caretaker.watch_slot().await {
                tracing::debug!(%trouble, "cannot look at the slot");
            }
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// One stream, from its preparation to its end; `Ok` where no mapping was active and now one may be.
    async fn attempt(&mut self) -> Result<(), Failure> {
        let Some(prepared) = self.caretaker.prepare().await? else {
            let idle = Trouble::new(
                "NO_MAPPINGS",
                "no mapping is active",
                "create a mapping; the reader starts with it",
            );
            self.status.set(ReaderState::Stopped, Some(idle));
            self.caretaker.changed().await;
            return Ok(());
        };
        let opening = self.opening.insert(Opening::begin(&self.caretaker.charge.group.url, &self.names));
        let stream = opening.stream().await;
        self.opening = None;
        let stream = stream?;
        if stream.system != self.caretaker.charge.identity.system {
            return Err(Failure::OtherCluster);
        }
        let plan = self.caretaker.plan.subscribe();
        let (to_stream, inbox) = mpsc::channel(TO_STREAM);
        let backfill = self.backfill(to_stream);
        let mut session = Session::new(self, stream, &prepared, plan, inbox);
        self.status.set(ReaderState::Streaming, None);
        tracing::info!(cdc.slot = %self.names.slot, cdc.term = self.term, "reading row changes");
        tokio::select! {
            failure = session.run() => failure,
            () = self.caretaker.tend() => Ok(()),
            never = backfill.run() => match never {},
        }
    }

    fn backfill(&self, stream: mpsc::Sender<ToStream>) -> Backfill {
        let group = &self.caretaker.charge.group;
        Backfill {
            pool: self.caretaker.pool.clone(),
            url: group.url.clone(),
            scopes: group.scopes.clone(),
            stream,
            status: self.status.clone(),
        }
    }
}

/// A pause that doubles with each failure, give or take a quarter.
fn backoff(failures: u32) -> Duration {
    let full = BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF_MAX);
    full.mul_f64(rand::random_range(0.75..1.25))
}

/// One run of the stream.
struct Session {
    stream: ReplicationStream,
    appends: Appends,
    relations: Relations,
    plan: watch::Receiver<Arc<Plan>>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    url: TargetUrl,
    source: Arc<str>,
    term: u64,
    /// The open transaction: its commit's place and time, and the number of its next change.
    lsn: u64,
    commit_ms: i64,
    ordinal: u64,
    rows: u64,
    tally: Tally,
    recorder: Recorder,
    snapshots: Snapshots,
    told: u64,
    told_at: Instant,
}

impl Session {
    fn new(
        reader: &Reader,
        stream: ReplicationStream,
        prepared: &Prepared,
        plan: watch::Receiver<Arc<Plan>>,
        inbox: mpsc::Receiver<ToStream>,
    ) -> Self {
        let source = format!("{}:{}:{}", stream.system, stream.timeline, prepared.creation);
        let current = plan.borrow().clone();
        Self {
            stream,
            appends: Appends::new(reader.router.clone()),
            relations: Relations::new(current, &reader.names.slot),
            plan,
            status: reader.status.clone(),
            metrics: reader.metrics.clone(),
            url: reader.caretaker.charge.group.url.clone(),
            source: source.into(),
            term: reader.term,
            lsn: 0,
            commit_ms: 0,
            ordinal: 0,
            rows: 0,
            tally: Tally::default(),
            recorder: reader.recorder.recorder(),
            snapshots: Snapshots::new(inbox),
            told: 0,
            told_at: Instant::now(),
        }
    }

    /// Reads until something fails.
    async fn run(&mut self) -> Result<(), Failure> {
        let mut tick = interval(CONFIRM);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.appends.start();
            self.publish_progress();
            tokio::select! {
                biased;
                acknowledged = self.appends.settled(), if self.appends.is_in_flight() => {
                    let acknowledged = acknowledged?;
                    self.metrics.cdc_events.inc_by(acknowledged.events as u64);
                    self.status.events.fetch_add(acknowledged.events as u64, Ordering::Relaxed);
                    self.status.lag_ms.store((now_ms() - acknowledged.commit_ms).max(0), Ordering::Relaxed);
                }
                _ = tick.tick() => self.tell().await?,
                frame = self.stream.next(), if self.appends.has_room() => {
                    self.take(frame?).await?;
                    self.drain().await?;
                }
            }
        }
    }

    /// Takes what has arrived already.
    async fn drain(&mut self) -> Result<(), Failure> {
        for _ in 0..DRAIN {
            if !self.appends.has_room() {
                return Ok(());
            }
            match self.stream.next_now() {
                Some(frame) => self.take(frame?).await?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::Message { bytes, wal_end } => {
                self.status.wal_end.fetch_max(wal_end, Ordering::Relaxed);
                self.message(bytes)?;
                if self.relations.has_news() {
                    self.learn_types().await?;
                }
            }
            Frame::Keepalive { wal_end, reply } => {
                self.status.wal_end.fetch_max(wal_end, Ordering::Relaxed);
                self.appends.reached(wal_end);
                if reply {
                    self.stream.confirm(self.appends.confirmed()).await?;
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let message = Message::parse(&bytes)?;
        match message {
            Message::Begin { commit_lsn, commit_ms, xid } => {
                self.adopt_plan()?;
                self.snapshots.begin(xid);
                (self.lsn, self.commit_ms, self.ordinal) = (commit_lsn, commit_ms, 0);
                self.appends.begin(commit_ms);
            }
            Message::Commit { end_lsn } => self.appends.commit(end_lsn),
            Message::Relation(_) => {
                let fits = self.relations.describe(bytes.clone())?;
                self.status.set_fits(fits);
            }
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => self.row(&message),
            Message::Logical { prefix, content } => {
                let (lsn, now, term) = (self.lsn, now_ms(), self.term);
                for event in self.snapshots.message(prefix, content, lsn, now, term) {
                    self.appends.push(event);
                }
            }
            Message::Other => {}
        }
        Ok(())
    }

    fn row(&mut self, message: &Message<'_>) {
        let place = Place {
            source: &self.source,
            term: self.term,
            lsn: self.lsn,
            commit_ms: self.commit_ms,
            ordinal: self.ordinal,
        };
        if self.snapshots.watches()
            && let Some(relation) = self.relations.of(message)
        {
            self.snapshots.row(relation, message);
        }
        let mut witness = Witness { tally: &mut self.tally, recorder: &mut self.recorder };
        self.relations.evaluate(message, &place, &mut witness, |event| self.appends.push(event));
        self.ordinal += 1;
        self.rows += 1;
    }

    /// Asks for the database's own types: one has come since they were asked for, and the next row may hold it.
    async fn learn_types(&mut self) -> Result<(), Failure> {
        let url = self.url.clone();
        let asked = async { target::own_types(&mut target::connect(&url).await?).await };
        let fits = self.relations.learn(target::limited(asked).await?)?;
        self.status.set_fits(fits);
        Ok(())
    }

    /// Takes up a new plan, between transactions.
    fn adopt_plan(&mut self) -> Result<(), Failure> {
        if self.plan.has_changed().unwrap_or(false) {
            let plan = self.plan.borrow_and_update().clone();
            let fits = self.relations.adopt(plan)?;
            self.status.set_fits(fits);
        }
        Ok(())
    }

    fn publish_progress(&mut self) {
        if self.rows > 0 {
            self.status.rows.fetch_add(self.rows, Ordering::Relaxed);
            self.metrics.cdc_rows.inc_by(self.rows);
            self.rows = 0;
            let tally = std::mem::take(&mut self.tally);
            self.metrics.cdc_filtered.inc_by(tally.filtered);
            self.metrics.cdc_failed.inc_by(tally.failed);
        }
        self.status.confirmed.store(self.appends.confirmed(), Ordering::Relaxed);
        if let Some(oldest) = self.appends.oldest_ms() {
            // What waits is late already, though nobody knows how late it will be.
            self.status.lag_ms.fetch_max(now_ms() - oldest, Ordering::Relaxed);
        }
        self.recorder.confirmed(self.appends.confirmed());
        self.snapshots.confirmed(self.appends.confirmed());
        if self.appends.is_quiet() {
            self.status.lag_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Confirms where that moved, and shows that this side lives.
    async fn tell(&mut self) -> Result<(), Failure> {
        let confirmed = self.appends.confirmed();
        if confirmed > self.told || self.told_at.elapsed() >= ALIVE {
            self.stream.confirm(confirmed).await?;
            (self.told, self.told_at) = (confirmed, Instant::now());
        }
        Ok(())
    }
}
