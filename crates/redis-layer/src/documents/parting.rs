//! From what was written to the archive: what lanes part with is flushed in batches, a few milliseconds later.
//!
//! What finds no room here, or cannot be flushed, is not lost: Redis holds it as unflushed, and the sweep finds it.

use super::{Ground, flush, lane::Command};
use document_store::{Document, DocumentKey, Revision, StoreError, Unflushed};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Parts that may wait to be flushed.
const QUEUE: usize = 4_096;
/// Bytes that may wait to be flushed.
const WAITING_BYTES: usize = 64 << 20;
/// Documents in one transaction at most.
pub const DOCUMENTS: usize = 512;
/// Bytes in one transaction, beyond which no further document joins.
const BYTES: usize = 8 << 20;
/// How long what nobody waits for is held back, so that more goes with it.
const LINGER: Duration = Duration::from_millis(4);

/// Somebody who waits for a document to be committed.
pub type Wanted = (Arc<Document>, oneshot::Sender<Result<Document, StoreError>>);

/// What a lane has written of one document.
pub struct Flush {
    /// The document afterwards.
    pub document: Arc<Document>,
    /// What is remembered of the revisions, in order.
    pub revisions: Vec<Revision>,
    /// Who waits for it, each with the document that is answered.
    pub wanted: Vec<Wanted>,
}

impl Flush {
    fn bytes(&self) -> usize {
        let revisions: usize = self.revisions.iter().map(|r| r.diff.as_str().len() + r.undo.len()).sum();
        self.document.data.as_str().len() + revisions
    }
}

/// The lanes' end.
#[derive(Clone)]
pub struct Parting {
    queue: mpsc::Sender<Flush>,
    bytes: Arc<AtomicUsize>,
}

impl Parting {
    /// Hands on what was written; waits where somebody waits for it and there is no room.
    pub async fn give(&self, flush: Flush) {
        let bytes = flush.bytes();
        if !flush.wanted.is_empty() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            // Where the flusher is gone, those who wait are told by losing their answer.
            let _ = self.queue.send(flush).await;
        } else if self.bytes.load(Ordering::Relaxed) < WAITING_BYTES && self.queue.try_send(flush).is_ok() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// The flusher's end.
pub struct Flusher {
    ground: Arc<Ground>,
    lanes: Arc<[mpsc::Sender<Command>]>,
    queue: mpsc::Receiver<Flush>,
    bytes: Arc<AtomicUsize>,
}

/// Both ends.
pub fn start(ground: Arc<Ground>, lanes: Arc<[mpsc::Sender<Command>]>) -> (Parting, Flusher) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let bytes = Arc::new(AtomicUsize::new(0));
    (Parting { queue: sender, bytes: bytes.clone() }, Flusher { ground, lanes, queue, bytes })
}

impl Flusher {
    /// Flushes until every lane has ended and nothing waits.
    pub async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let (documents, wanted) = self.gather(first).await;
            let outcome = flush::flush(&self.ground, &self.lanes, documents).await;
            for (document, reply) in wanted {
                let answer = match &outcome {
                    Ok(refused) if refused.contains(&document.key) => Err(refused_later()),
                    Ok(_) => Ok((*document).clone()),
                    Err(error) => Err(error.clone()),
                };
                // A caller that went away does not want its answer; what was committed stays.
                drop(reply.send(answer));
            }
        }
    }

    async fn gather(&mut self, first: Flush) -> (Vec<Unflushed>, Vec<Wanted>) {
        let (mut documents, mut wanted) = (HashMap::new(), Vec::new());
        let mut bytes = self.add(&mut documents, &mut wanted, first);
        if wanted.is_empty() {
            tokio::time::sleep(LINGER).await;
        }
        while documents.len() < DOCUMENTS
            && bytes < BYTES
            && let Ok(next) = self.queue.try_recv()
        {
            bytes += self.add(&mut documents, &mut wanted, next);
        }
        (documents.into_values().collect(), wanted)
    }

    /// Adds what was written later of a document to what was written before.
    fn add(
        &self,
        documents: &mut HashMap<DocumentKey, Unflushed>,
        wanted: &mut Vec<Wanted>,
        flush: Flush,
    ) -> usize {
        let bytes = flush.bytes();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let Flush { document, revisions, wanted: more } = flush;
        wanted.extend(more);
        match documents.get_mut(&document.key) {
            Some(unflushed) => {
                unflushed.document = (*document).clone();
                unflushed.revisions.extend(revisions);
            }
            None => {
                let unflushed = Unflushed { document: (*document).clone(), revisions };
                documents.insert(document.key.clone(), unflushed);
            }
        }
        bytes
    }
}

fn refused_later() -> StoreError {
    StoreError::Unavailable("the write was not committed: the database holds something else".to_owned())
}
