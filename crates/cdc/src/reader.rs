//! One leader's reading of one target: prepare, stream, and again after a failure.

use crate::{
    appends::Refusal,
    backfill::Backfill,
    caretaker::Caretaker,
    pgoutput::Malformed,
    recorder::RecorderSource,
    service::SpillSettings,
    session::Session,
    snapshots::ToStream,
    spill::{Drained, Spill, SpillError},
    status::Status,
    stream::Opening,
    target::Names,
    trouble::{OTHER_CLUSTER, Trouble},
};
use database::tables::{cdc::ReaderState, cdc_spill::SpillKey};
use event_log::{LogError, TopicKey};
use event_router::EventRouter;
use metrics::Metrics;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// The first pause after a failure; twice that each time.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a stream must have run for the next failure to count as a first one.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long each thing may take that is still to be done when stopping: what is on its way to the log, noting what was
/// read, letting go of a slot.
const LET_GO: Duration = Duration::from_secs(2);
/// What a backfill may say before the stream listens: a chunk's beginning and its rows.
const TO_STREAM: usize = 4;

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
pub(crate) enum Failure {
    /// It passes, or somebody has to do something.
    Trouble(Trouble),
    /// The log takes no events now: what is read next is spilled.
    Refused(Trouble),
    /// Another leader has appended in a later term.
    Fenced,
    /// The URL now leads to another cluster.
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

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Log(LogError::Fenced { .. }) => Self::Fenced,
            // What was on its way is read again from the last confirmed position, under the same identities.
            Refusal::Log(error) => Self::Refused(Trouble::platform(error)),
            Refusal::Spill(error) => error.into(),
        }
    }
}

impl From<SpillError> for Failure {
    fn from(error: SpillError) -> Self {
        match error {
            SpillError::Overtaken => Self::Fenced,
            SpillError::Trouble(trouble) => Self::Trouble(trouble),
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
    /// When events are spilled, and how many.
    pub spilling: SpillSettings,
    /// Whether the log has refused what was to be appended last.
    pub is_refused: bool,
    /// The stream that is being opened.
    pub opening: Option<Opening>,
}

impl Reader {
    /// Reads until `stop`, through every failure that passes.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut session = None;
        let ended = tokio::select! {
            ended = self.read(&mut session) => ended,
            () = stop.cancelled() => Ended::Stopped,
        };
        if let Some(session) = &mut session {
            session.finish(LET_GO).await;
        }
        // Whoever reads next must know what was read, as far as that can be said in a moment.
        if !matches!(tokio::time::timeout(LET_GO, self.caretaker.seen.note()).await, Ok(Ok(()))) {
            tracing::debug!(cdc.slot = %self.names.slot, "could not note what was read last");
        }
        // And find the slot free.
        if let Some(opening) = self.opening.take() {
            opening.abandon(LET_GO).await;
        }
        ended
    }

    /// Reads until that makes no sense any more; the stream that is read is in `session`.
    async fn read(&mut self, session: &mut Option<Session>) -> Ended {
        let mut failures = 0;
        loop {
            self.status.set(ReaderState::Connecting, None);
            let begun = Instant::now();
            let failure = match self.attempt(session).await {
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
                Failure::Refused(trouble) => {
                    self.is_refused = true;
                    trouble
                }
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
    async fn attempt(&mut self, session: &mut Option<Session>) -> Result<(), Failure> {
        self.caretaker.seen.note().await?;
        let spill = self.take_over().await?;
        if spill.size().events > 0 && !self.caretaker.has_mappings().await? {
            // It goes with the slot, which is given up next.
            self.empty(&spill).await?;
        }
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
        if prepared.gap_untold {
            self.empty(&spill).await?;
            self.tell_gap().await?;
        }
        let opening = self.opening.insert(Opening::begin(&self.caretaker.charge.group.url, &self.names));
        let stream = opening.stream().await;
        self.opening = None;
        let stream = stream?;
        if stream.system != self.caretaker.charge.identity.system {
            return Err(Failure::OtherCluster);
        }
        let expected = match prepared.seen {
            Some(seen) => self.caretaker.expected(seen).await?,
            None => None,
        };
        let plan = self.caretaker.plan.subscribe();
        let (to_stream, inbox) = mpsc::channel(TO_STREAM);
        let backfill = self.backfill(to_stream);
        let seen = self.caretaker.seen.clone();
        let reading = session.insert(Session::new(self, stream, &prepared, expected, plan, inbox, spill));
        self.is_refused = false;
        self.status.set(ReaderState::Streaming, None);
        tracing::info!(cdc.slot = %self.names.slot, cdc.term = self.term, "reading row changes");
        let ended = tokio::select! {
            failure = reading.run() => failure,
            () = self.caretaker.tend() => Ok(()),
            never = backfill.run() => match never {},
            never = seen.run() => match never {},
        };
        *session = None;
        ended
    }

    async fn take_over(&self) -> Result<Arc<Spill>, Failure> {
        let (pool, system) = (&self.caretaker.pool, self.caretaker.charge.identity.system.clone());
        let key = SpillKey { system_identifier: system, slot: self.names.slot.clone() };
        Ok(Spill::take_over(pool, key, self.term, self.spilling.limit_bytes, &self.metrics).await?)
    }

    /// Sends everything that is spilled.
    async fn empty(&self, spill: &Spill) -> Result<(), Failure> {
        loop {
            match spill.send(&self.router).await? {
                Drained::Empty => return Ok(()),
                Drained::Sent(events) => self.status.sent(&self.metrics, events),
                Drained::Refused(error) => return Err(Failure::Trouble(Trouble::platform(error))),
            }
        }
    }

    /// Tells the subscribers of the topics that are read of a gap: what was lost would have stood between what the
    /// topics hold and what comes next, which therefore begins a new epoch.
    async fn tell_gap(&self) -> Result<(), Failure> {
        let plan = self.caretaker.plan.borrow().clone();
        let topics: BTreeSet<TopicKey> = plan
            .mappings
            .iter()
            .map(|mapping| TopicKey::new(&mapping.scope, &mapping.definition.topic))
            .collect();
        tracing::warn!(cdc.slot = %self.names.slot, topics = topics.len(), "topics begin anew after a gap");
        let begun = self.router.log().begin_epochs(topics.into_iter().collect()).await;
        begun.map_err(|error| Failure::Trouble(Trouble::platform(error)))?;
        Ok(self.caretaker.note_told().await?)
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
