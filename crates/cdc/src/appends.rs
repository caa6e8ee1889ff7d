//! Events on their way into the log, and how far the target may forget.
//!
//! Batches go into the log or, where it takes none, into the spill. One append is under way at a time; what is read meanwhile becomes the next one, so that batches grow with the
//! load and nothing waits when there is none. More than one under way would be unsafe: were the first to fail and
//! the second to succeed, the first's repeat would look like something that the log already has.

use crate::spill::{Spill, SpillError};
use database::tables::cdc_slots::Seen;
use event_log::LogError;
use event_router::{EventRouter, Routed};
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Events of one append.
pub(crate) const BATCH_EVENTS: usize = 2_000;
/// Bytes of one append, as far as payloads and metadata go.
pub(crate) const BATCH_BYTES: usize = 2 << 20;

/// What an append that was acknowledged means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// How many events.
    pub events: usize,
    /// When the newest of them was committed, Unix milliseconds.
    pub commit_ms: i64,
    /// Whether they are in the spill and not in the log.
    pub spilled: bool,
}

/// Why an append failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The log does not take it.
    Log(LogError),
    /// It could not be spilled.
    Spill(SpillError),
}

struct InFlight {
    future: BoxFuture<'static, Result<(), Refusal>>,
    covers: u64,
    begun: Instant,
    acknowledged: Acknowledged,
    oldest_ms: i64,
}

/// The events between the stream and the log.
pub(crate) struct Appends {
    router: EventRouter,
    /// Where batches go instead of the log.
    spill: Option<Arc<Spill>>,
    waiting: Vec<Routed>,
    /// How many of `waiting` belong to transactions that have been read to their end.
    complete: usize,
    bytes: usize,
    in_flight: Option<InFlight>,
    /// Behind the last transaction that was read to its end.
    finished: u64,
    confirmed: u64,
    /// The transaction that was begun last.
    transaction: Seen,
    /// The last one that made events.
    seen: Option<Seen>,
    /// When the oldest of `waiting` was committed.
    oldest_ms: i64,
    in_transaction: bool,
}

impl Appends {
    /// Nothing on its way yet; batches go into the spill where there is one.
    pub fn new(router: EventRouter, spill: Option<Arc<Spill>>) -> Self {
        Self {
            router,
            spill,
            waiting: Vec::new(),
            complete: 0,
            bytes: 0,
            in_flight: None,
            finished: 0,
            confirmed: 0,
            transaction: Seen { lsn: 0, commit_ms: 0, xid: 0 },
            seen: None,
            oldest_ms: 0,
            in_transaction: false,
        }
    }

    /// A transaction begins.
    pub fn begin(&mut self, transaction: Seen) {
        self.in_transaction = true;
        self.transaction = transaction;
    }

    /// An event of the open transaction.
    pub fn push(&mut self, event: Routed) {
        if self.waiting.is_empty() {
            self.oldest_ms = self.transaction.commit_ms;
        }
        self.seen = Some(self.transaction);
        self.bytes += event.draft.payload.as_str().len() + event.draft.extra_metadata.len();
        self.waiting.push(event);
    }

    /// The open transaction has been read to its end.
    pub fn commit(&mut self, end_lsn: u64) {
        self.in_transaction = false;
        self.complete = self.waiting.len();
        self.finished = self.finished.max(end_lsn);
        self.settle_quiet();
    }

    /// Everything before `wal_end` has been read.
    pub fn reached(&mut self, wal_end: u64) {
        if !self.in_transaction {
            self.finished = self.finished.max(wal_end);
            self.settle_quiet();
        }
    }

    /// With nothing on its way, everything that was read is done.
    fn settle_quiet(&mut self) {
        if self.in_flight.is_none() && self.waiting.is_empty() {
            self.confirmed = self.finished;
        }
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < BATCH_EVENTS && self.bytes < BATCH_BYTES
    }

    /// Whether an append is under way.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// How long the append under way has been so.
    pub fn in_flight_for(&self) -> Option<Duration> {
        self.in_flight.as_ref().map(|in_flight| in_flight.begun.elapsed())
    }

    /// From here on batches go into the log: nothing is in the spill any more.
    pub fn straighten(&mut self) {
        self.spill = None;
    }

    /// Whether nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_none() && self.waiting.is_empty()
    }

    /// When the oldest transaction on its way was committed, Unix milliseconds.
    pub fn oldest_ms(&self) -> Option<i64> {
        let waiting = (!self.waiting.is_empty()).then_some(self.oldest_ms);
        self.in_flight.as_ref().map(|in_flight| in_flight.oldest_ms).or(waiting)
    }

    /// The last transaction that made events.
    pub fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// Up to where the target may forget.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Starts the next append where none is under way: whole transactions, or a part of one that is too large.
    /// Answers whether it did.
    pub fn start(&mut self) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let count = if self.complete > 0 {
            self.complete
        } else if self.has_room() {
            return false;
        } else {
            self.waiting.len()
        };
        let rest = self.waiting.split_off(count);
        let batch = std::mem::replace(&mut self.waiting, rest);
        self.complete = 0;
        self.bytes =
            self.waiting.iter().map(|e| e.draft.payload.as_str().len() + e.draft.extra_metadata.len()).sum();
        let (events, commit_ms, spilled) = (batch.len(), self.transaction.commit_ms, self.spill.is_some());
        let acknowledged = Acknowledged { events, commit_ms, spilled };
        let future = self.send(batch);
        let oldest_ms = std::mem::replace(&mut self.oldest_ms, self.transaction.commit_ms);
        let (covers, begun) = (self.finished, Instant::now());
        self.in_flight = Some(InFlight { future, covers, begun, acknowledged, oldest_ms });
        true
    }

    fn send(&self, batch: Vec<Routed>) -> BoxFuture<'static, Result<(), Refusal>> {
        match &self.spill {
            Some(spill) => {
                let pushed = spill.push(batch);
                Box::pin(async move { pushed.await.map_err(Refusal::Spill) })
            }
            None => {
                let routed = self.router.route(batch);
                Box::pin(async move { routed.await.map(drop).map_err(Refusal::Log) })
            }
        }
    }

    /// Waits for the append under way; for ever where there is none. Dropping it leaves the append under way.
    ///
    /// # Errors
    /// The log's or the spill's; nothing that was on its way may be confirmed then.
    pub async fn settled(&mut self) -> Result<Acknowledged, Refusal> {
        let Some(in_flight) = &mut self.in_flight else { return std::future::pending().await };
        let settled = (&mut in_flight.future).await;
        let (covers, acknowledged) = (in_flight.covers, in_flight.acknowledged);
        self.in_flight = None;
        settled?;
        self.confirmed = self.confirmed.max(covers);
        self.settle_quiet();
        Ok(acknowledged)
    }
}

#[cfg(test)]
mod tests;
