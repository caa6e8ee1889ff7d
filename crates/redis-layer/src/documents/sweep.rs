//! Flushes what was not flushed right after it was written, whoever wrote it, and measures how much that is.

use super::{
    Ground, flush,
    lane::Command,
    parting,
    server::{self, Asker, Waiting},
};
use crate::{event_log::lane::now_ms, keys::Partition};
use document_store::{DocumentKey, StoreError};
use futures::future::try_join_all;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How long documents wait before they are taken for left over.
const LEFT_MS: i64 = 5_000;
/// Documents that are read and flushed together.
const AT_ONCE: usize = 64;
/// How many documents of all processes may wait before no further one is taken.
pub const MOST: u64 = 100_000;
/// The share of the server's memory, in percent, from which no document is taken while some have waited for long.
const SHORT: u64 = 90;
/// How long that is.
const LONG_MS: u64 = 30_000;

/// The sweep of one process.
pub struct Sweep {
    ground: Arc<Ground>,
    lanes: Arc<[mpsc::Sender<Command>]>,
    /// What this process's flusher has yet to flush, and is left to it.
    parted: Arc<parting::Waiting>,
}

impl Sweep {
    /// A sweep of what `lanes` and those of other processes have written, but for what waits in `parted`.
    pub fn new(
        ground: Arc<Ground>,
        lanes: Arc<[mpsc::Sender<Command>]>,
        parted: Arc<parting::Waiting>,
    ) -> Self {
        Self { ground, lanes, parted }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            // Dropped half way it leaves what it had taken to the next.
            let round = self.round(LEFT_MS);
            tokio::select! {
                () = stop.cancelled() => return,
                outcome = round => if let Err(error) = outcome {
                    tracing::debug!(%error, "could not flush what was left; trying again");
                }
            }
        }
    }

    /// Flushes everything that waits, of all processes, for at most `limit`.
    pub async fn last(self, limit: Duration) {
        match tokio::time::timeout(limit, self.round(0)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "documents are left to be flushed by another process"),
            Err(_) => tracing::warn!("documents are left to be flushed by another process: it took too long"),
        }
    }

    /// Measures, and flushes what has waited for `left_ms`.
    async fn round(&self, left_ms: i64) -> Result<(), StoreError> {
        let since = now_ms() - left_ms;
        let asker = Asker::One(&self.ground.shore.writer);
        let all = Partition::all().map(async |partition| {
            let waiting = server::waiting(&self.ground, partition, asker, since, AT_ONCE).await?;
            Ok::<_, StoreError>((partition, waiting))
        });
        let all = try_join_all(all).await?;
        self.measure(all.iter().map(|(_, waiting)| waiting));
        for (partition, waiting) in all {
            let (mut documents, mut done) = (self.left(waiting.documents), Vec::new());
            // Those that are handed out again could not be flushed, and are left to the next round.
            while !documents.is_empty() && documents != done {
                flush::flush_from_redis(&self.ground, &self.lanes, partition, &documents).await?;
                let next = server::waiting(&self.ground, partition, asker, since, AT_ONCE).await?.documents;
                done = std::mem::replace(&mut documents, self.left(next));
            }
        }
        Ok(())
    }

    fn left(&self, documents: Vec<DocumentKey>) -> Vec<DocumentKey> {
        documents.into_iter().filter(|key| !self.parted.holds(key)).collect()
    }

    fn measure<'a>(&self, all: impl Iterator<Item = &'a Waiting>) {
        let (mut count, mut since) = (0, None::<i64>);
        for waiting in all {
            count += waiting.count;
            since = since.into_iter().chain(waiting.since).min();
        }
        let lag_ms = since.map_or(0, |since| now_ms().saturating_sub(since).max(0).unsigned_abs());
        let shore = &self.ground.shore;
        shore.metrics.documents_unflushed.set(i64::try_from(count).unwrap_or(i64::MAX));
        shore.metrics.document_flush_lag.set(lag_ms as f64 / 1_000.0);
        shore.unflushed.count.store(count, Ordering::Relaxed);
        shore.unflushed.lag_ms.store(lag_ms, Ordering::Relaxed);
        let nodes = shore.guard.seen().nodes;
        let is_short =
            nodes.iter().any(|node| node.memory.1 > 0 && node.memory.0 * 100 / node.memory.1 >= SHORT);
        let is_full = count >= MOST || (is_short && lag_ms > LONG_MS);
        if shore.unflushed.is_full.swap(is_full, Ordering::Relaxed) != is_full {
            let message = match is_full {
                true => "too many documents wait for the database; writes to documents are refused",
                false => "writes to documents are taken again",
            };
            tracing::warn!(documents.unflushed = count, documents.flush_lag_ms = lag_ms, "{message}");
        }
    }
}

/// Waits until everything that waited in a partition when this was called, and that `wanted` picks, is flushed.
///
/// # Errors
/// Where it cannot be flushed.
pub async fn flush_partition(
    ground: &Ground,
    lanes: &[mpsc::Sender<Command>],
    partition: Partition,
    wanted: impl Fn(&DocumentKey) -> bool,
) -> Result<(), StoreError> {
    let all = usize::try_from(MOST * 2).unwrap_or(usize::MAX);
    let waiting = server::waiting(ground, partition, Asker::Anybody, i64::MAX >> 10, all).await?;
    let documents: Vec<DocumentKey> = waiting.documents.into_iter().filter(wanted).collect();
    for some in documents.chunks(AT_ONCE) {
        flush::flush_from_redis(ground, lanes, partition, some).await?;
    }
    Ok(())
}
