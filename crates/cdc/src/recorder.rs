//! What became of each row change, written down in batches beside the way of the events.
//!
//! Nothing waits for it: what there is no room for is counted and left out. A change is written down only once its
//! events are in the log.

use crate::{
    plan::Place,
    row::{Cell, RowChange},
};
use database::{
    Pool,
    tables::cdc_events::{self, NewCdcEvent, Verdict},
};
use metrics::Metrics;
use shared_types::Scope;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Changes that wait for their events' append; more than this of one batch are left out.
const PENDING: usize = 16_384;
/// Changes that wait to be written; more are left out.
const WAITING: usize = 65_536;
/// Batches that wait to be written.
const BATCHES: usize = 256;
/// Changes of one transaction at most, and from how many on nothing more is gathered.
const BATCH: usize = 4_000;
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// How long a transaction may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest key that is written down, in bytes.
const KEY_BYTES: usize = 1_024;

/// Changes on their way to be written, and their share of the room.
struct Batch {
    changes: Vec<NewCdcEvent>,
    _room: OwnedSemaphorePermit,
}

/// The way to the task that writes.
#[derive(Clone)]
struct Out {
    batches: mpsc::Sender<Batch>,
    room: Arc<Semaphore>,
}

impl Out {
    /// Whether there was room.
    fn send(&self, changes: Vec<NewCdcEvent>) -> bool {
        let count = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(count) else { return false };
        self.batches.try_send(Batch { changes, _room: room }).is_ok()
    }
}

/// The reader's end.
pub(crate) struct Recorder {
    /// `None` where nothing is to be written down.
    out: Option<Out>,
    pending: VecDeque<NewCdcEvent>,
    metrics: Arc<Metrics>,
}

/// A recorder and the task that writes; none where it is switched off.
pub(crate) fn start(pool: Pool, metrics: Arc<Metrics>) -> (RecorderSource, impl Future<Output = ()> + Send) {
    let (out, batches) = mpsc::channel(BATCHES);
    let out = Out { batches: out, room: Arc::new(Semaphore::new(WAITING)) };
    let source = RecorderSource { out: Some(out), metrics: metrics.clone() };
    (source, write(pool, metrics, batches))
}

/// Makes a recorder for each stream.
#[derive(Clone)]
pub(crate) struct RecorderSource {
    out: Option<Out>,
    metrics: Arc<Metrics>,
}

impl RecorderSource {
    /// One whose recorders write nothing down.
    pub fn off(metrics: Arc<Metrics>) -> Self {
        Self { out: None, metrics }
    }

    /// A recorder for one stream.
    pub fn recorder(&self) -> Recorder {
        Recorder { out: self.out.clone(), pending: VecDeque::new(), metrics: self.metrics.clone() }
    }
}

impl Recorder {
    /// Whether another change is to be described. One that is not, though it could be, is counted.
    pub fn wants(&self) -> bool {
        if self.out.is_none() {
            return false;
        }
        let room = self.pending.len() < PENDING;
        if !room {
            self.metrics.cdc_unrecorded.inc();
        }
        room
    }

    /// Takes in what a mapping of `scope` made of a change, to be written down once everything up to it is in the
    /// log.
    pub fn note(&mut self, change: &RowChange<'_>, place: &Place<'_>, scope: &Scope, verdict: Verdict) {
        let of_change = |noted: &&mut NewCdcEvent| noted.lsn == place.lsn && noted.ordinal == place.ordinal;
        let known = self.pending.iter_mut().rev().take_while(of_change).find(|noted| noted.scope == *scope);
        if let Some(noted) = known {
            noted.results.push(verdict);
            return;
        }
        self.pending.push_back(NewCdcEvent {
            scope: scope.clone(),
            source: place.source.clone(),
            lsn: place.lsn,
            ordinal: place.ordinal,
            table: change.relation.table.clone(),
            operation: change.operation,
            key: key(change),
            results: vec![verdict],
            commit_ms: place.commit_ms,
        });
    }

    /// Everything of transactions before `confirmed` is in the log.
    pub fn confirmed(&mut self, confirmed: u64) {
        let Some(out) = &self.out else { return };
        let done = self.pending.partition_point(|change| change.lsn < confirmed);
        if done == 0 {
            return;
        }
        if !out.send(self.pending.drain(..done).collect()) {
            self.metrics.cdc_unrecorded.inc_by(done as u64);
        }
    }
}

/// Writes until no recorder is left.
async fn write(pool: Pool, metrics: Arc<Metrics>, mut batches: mpsc::Receiver<Batch>) {
    while let Some(first) = batches.recv().await {
        let until = tokio::time::Instant::now() + GATHER;
        let mut count = first.changes.len();
        let mut gathered = vec![first];
        while count < BATCH
            && let Ok(Some(more)) = tokio::time::timeout_at(until, batches.recv()).await
        {
            count += more.changes.len();
            gathered.push(more);
        }
        // Their room is theirs until they are written.
        let changes: Vec<_> = gathered.iter_mut().flat_map(|batch| batch.changes.drain(..)).collect();
        for batch in changes.chunks(BATCH) {
            let written = tokio::time::timeout(PATIENCE, cdc_events::record(&pool, batch)).await;
            if !matches!(written, Ok(Ok(_))) {
                metrics.cdc_unrecorded.inc_by(batch.len() as u64);
                tracing::debug!(changes = batch.len(), "row changes could not be written down");
            }
        }
    }
}

/// Removes what is older than `retention`, now and then, until `stop`.
pub(crate) async fn remove_old(pool: Pool, retention: Duration, stop: CancellationToken) {
    let pause = Duration::from_secs(60);
    loop {
        loop {
            let removed = tokio::time::timeout(PATIENCE, cdc_events::remove_older(&pool, retention)).await;
            match removed {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => {
                    tracing::debug!("old row changes could not be removed");
                    break;
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The row's key as a JSON object, where the replica identity tells it; an identity of all columns tells none.
fn key(change: &RowChange<'_>) -> Option<String> {
    let columns = &change.relation.columns;
    let cells = match (change.new, change.old) {
        ([], crate::row::OldRow::Key(old) | crate::row::OldRow::Full(old)) => old,
        (new, _) => new,
    };
    let mut out = String::from("{");
    for (column, cell) in columns.iter().zip(cells).filter(|(column, _)| column.key) {
        if out.len() > 1 {
            out.push(',');
        }
        crate::values::push_text(&mut out, &column.name);
        out.push(':');
        match cell {
            Cell::Text(text) => column.kind.write(&mut out, text),
            Cell::Null | Cell::Unchanged => out.push_str("null"),
        }
    }
    out.push('}');
    // NUL cannot be stored.
    (out.len() > 2 && out.len() <= KEY_BYTES && !out.contains("\\u0000")).then_some(out)
}
