//! Events that the log does not take yet, kept in the platform's database in the order of their commits.
//!
//! A spill has one writer, the leader of the newest term; an earlier one is refused. What is in it is sent before
//! anything that comes later. An event can be in the spill and in the log, where nobody knows what became of an append:
//! the log recognizes it by its position.

mod drain;

pub(crate) use drain::{Drain, Drained, Step};

use crate::trouble::Trouble;
use database::{
    DatabaseError, Pool,
    tables::cdc_spill::{self, SpillKey, SpillSize, SpilledEvent},
};
use event_log::{Identity, LogError, SourcePosition};
use event_router::{EventRouter, Routed};
use futures::future::BoxFuture;
use metrics::Metrics;
use parking_lot::Mutex;
use shared_types::{Draft, EventId, Source};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// How long one step may take. A database that needs longer is what is slow: then the slot is held.
const PATIENCE: Duration = Duration::from_secs(15);
/// Events of one append out of the spill, and their bytes.
const PAGE_EVENTS: usize = 2_000;
const PAGE_BYTES: usize = 2 << 20;

/// What keeps a spill from being used.
#[derive(Debug)]
pub(crate) enum SpillError {
    /// A later leader has it.
    Overtaken,
    /// The platform's database does not do it.
    Trouble(Trouble),
}

impl From<DatabaseError> for SpillError {
    fn from(error: DatabaseError) -> Self {
        Self::Trouble(Trouble::platform(error))
    }
}

/// The spill of one target, in the hands of one leader.
pub(crate) struct Spill {
    pool: Pool,
    key: SpillKey,
    term: u64,
    limit_bytes: u64,
    metrics: Arc<Metrics>,
    size: Mutex<SpillSize>,
    /// When the oldest event was committed, Unix milliseconds; 0 where that is not known.
    oldest_ms: AtomicI64,
}

impl Spill {
    /// Takes the spill over: no earlier leader writes into it any more.
    ///
    /// # Errors
    /// `Overtaken`, or the database's.
    pub async fn take_over(
        pool: &Pool,
        key: SpillKey,
        term: u64,
        limit_bytes: u64,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, SpillError> {
        let size = within(cdc_spill::take_over(pool, &key, term)).await?.ok_or(SpillError::Overtaken)?;
        if size.events > 0 {
            tracing::info!(cdc.slot = key.slot, events = size.events, "spilled events are sent first");
        }
        Ok(Arc::new(Self {
            pool: pool.clone(),
            key,
            term,
            limit_bytes,
            metrics: metrics.clone(),
            size: Mutex::new(size),
            oldest_ms: AtomicI64::new(0),
        }))
    }

    /// How much is in it.
    pub fn size(&self) -> SpillSize {
        *self.size.lock()
    }

    /// When the oldest event was committed, Unix milliseconds, where that is known.
    pub fn oldest_ms(&self) -> Option<i64> {
        Some(self.oldest_ms.load(Ordering::Relaxed)).filter(|oldest| *oldest > 0)
    }

    /// Whether anything may be spilled at all.
    pub fn is_allowed(&self) -> bool {
        self.limit_bytes > 0
    }

    /// Whether it has reached its limit.
    pub fn is_full(&self) -> bool {
        self.size().bytes.unsigned_abs() >= self.limit_bytes
    }

    /// Puts events behind all others. Resolved means committed.
    ///
    /// # Errors
    /// `Overtaken`, or the database's; then it is not known whether they are in it.
    pub fn push(self: &Arc<Self>, batch: Vec<Routed>) -> BoxFuture<'static, Result<(), SpillError>> {
        let spill = self.clone();
        Box::pin(async move {
            let events = batch.into_iter().map(to_spill).collect::<Result<Vec<_>, _>>()?;
            let pushed = cdc_spill::push(&spill.pool, &spill.key, spill.term, &events);
            let size = within(pushed).await?.ok_or(SpillError::Overtaken)?;
            *spill.size.lock() = size;
            if let Some(first) = events.first() {
                // The first that came is the oldest until the spill is read.
                let known = &spill.oldest_ms;
                let _ = known.compare_exchange(0, first.timestamp_ms, Ordering::Relaxed, Ordering::Relaxed);
            }
            spill.metrics.cdc_spilled.inc_by(events.len() as u64);
            Ok(())
        })
    }

    /// Sends the oldest events to the log, and removes what it has acknowledged.
    ///
    /// # Errors
    /// `Overtaken`, or the database's. Nothing is removed that is not in the log.
    pub async fn send(&self, router: &EventRouter) -> Result<Drained, SpillError> {
        let page = within(cdc_spill::oldest(&self.pool, &self.key, PAGE_EVENTS, PAGE_BYTES)).await?;
        let (Some((_, first)), Some((last, _))) = (page.first(), page.last()) else {
            // Counted anew, and seen to be still ours.
            let counted = within(cdc_spill::take_over(&self.pool, &self.key, self.term)).await?;
            *self.size.lock() = counted.ok_or(SpillError::Overtaken)?;
            self.oldest_ms.store(0, Ordering::Relaxed);
            return Ok(Drained::Empty);
        };
        self.oldest_ms.store(first.timestamp_ms, Ordering::Relaxed);
        let (last, events) = (*last, page.len());
        let batch = page.into_iter().map(|(_, event)| self.spilled_event(event)).collect();
        match router.route(batch).await {
            Ok(_) => {}
            Err(LogError::Fenced { .. }) => return Err(SpillError::Overtaken),
            Err(error) => return Ok(Drained::Refused(error)),
        }
        *self.size.lock() = within(cdc_spill::remove(&self.pool, &self.key, last)).await?;
        Ok(Drained::Sent(events))
    }

    fn spilled_event(&self, event: SpilledEvent) -> Routed {
        let at = SourcePosition { lsn: event.lsn, ordinal: event.ordinal, mapping: event.mapping };
        Routed {
            scope: event.scope,
            draft: Draft {
                topic: event.topic,
                source: Source::Database,
                kind: event.kind.into(),
                payload: event.payload,
                id: Some(event.id),
                timestamp_ms: Some(event.timestamp_ms),
                extra_metadata: event.extra_metadata,
            },
            identity: Identity::Positioned { source: event.source.into(), term: self.term, at },
        }
    }
}

fn to_spill(Routed { scope, draft, identity }: Routed) -> Result<SpilledEvent, SpillError> {
    let Identity::Positioned { source, at, .. } = identity else {
        let cure = "report it with the mapping";
        return Err(SpillError::Trouble(Trouble::new("PROTOCOL", "an event without a position", cure)));
    };
    Ok(SpilledEvent {
        scope,
        topic: draft.topic,
        id: draft.id.unwrap_or_else(EventId::generate),
        kind: draft.kind.to_string(),
        payload: draft.payload,
        extra_metadata: draft.extra_metadata,
        timestamp_ms: draft.timestamp_ms.unwrap_or_else(event_router::now_ms),
        source: source.to_string(),
        lsn: at.lsn,
        ordinal: at.ordinal,
        mapping: at.mapping,
    })
}

async fn within<T>(work: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, SpillError> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(SpillError::Trouble(Trouble::platform("it does not take events aside in time"))),
    }
}
