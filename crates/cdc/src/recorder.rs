//! What became of each row change, written down in batches beside the way of the events.
//!
//! Nothing waits for it: what there is no room for is counted and left out. A change is written down only once its
//! events are in the log.

use crate::row::{Cell, RowChange};
use database::{
    Pool,
    tables::cdc_events::{self, NewCdcEvent},
};
use metrics::Metrics;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Changes that wait for their events' append; more than this of one batch are left out.
const PENDING: usize = 4_096;
/// Batches that wait to be written.
const BATCHES: usize = 8;
/// Changes of one statement.
const BATCH: usize = 1_000;
/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// How long a statement may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest key that is written down, in bytes.
const KEY_BYTES: usize = 1_024;

/// The reader's end.
pub(crate) struct Recorder {
    /// `None` where nothing is to be written down.
    out: Option<mpsc::Sender<Vec<NewCdcEvent>>>,
    pending: VecDeque<NewCdcEvent>,
    metrics: Arc<Metrics>,
}

/// A recorder and the task that writes; none where it is switched off.
pub(crate) fn start(pool: Pool, metrics: Arc<Metrics>) -> (RecorderSource, impl Future<Output = ()> + Send) {
    let (out, batches) = mpsc::channel(BATCHES);
    let source = RecorderSource { out: Some(out), metrics: metrics.clone() };
    (source, write(pool, metrics, batches))
}

/// Makes a recorder for each stream.
#[derive(Clone)]
pub(crate) struct RecorderSource {
    out: Option<mpsc::Sender<Vec<NewCdcEvent>>>,
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

    /// Takes a change in, to be written down once everything up to it is in the log.
    pub fn take(&mut self, change: NewCdcEvent) {
        self.pending.push_back(change);
    }

    /// Everything of transactions before `confirmed` is in the log.
    pub fn confirmed(&mut self, confirmed: u64) {
        let Some(out) = &self.out else { return };
        let done = self.pending.partition_point(|change| change.lsn < confirmed);
        if done == 0 {
            return;
        }
        let batch: Vec<_> = self.pending.drain(..done).collect();
        if let Err(error) = out.try_send(batch) {
            self.metrics.cdc_unrecorded.inc_by(error.into_inner().len() as u64);
        }
    }
}

/// Writes until no recorder is left.
async fn write(pool: Pool, metrics: Arc<Metrics>, mut batches: mpsc::Receiver<Vec<NewCdcEvent>>) {
    while let Some(mut gathered) = batches.recv().await {
        let until = tokio::time::Instant::now() + GATHER;
        while gathered.len() < BATCH
            && let Ok(Some(more)) = tokio::time::timeout_at(until, batches.recv()).await
        {
            gathered.extend(more);
        }
        for batch in gathered.chunks(BATCH) {
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
pub(crate) fn key(change: &RowChange<'_>) -> Option<String> {
    let columns = &change.relation.columns;
    if columns.iter().all(|column| column.key) {
        return None;
    }
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
