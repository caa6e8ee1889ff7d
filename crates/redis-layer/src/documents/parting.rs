//! From what was written to the archive: what lanes part with waits here by document, is flushed in batches a few
//! milliseconds later, and where more is written than the archive takes, each document's writes gather meanwhile.
//!
//! What finds no room here, or cannot be flushed, is not lost: Redis holds it as unflushed, and the sweep finds it.

use super::{Ground, flush, lane::Command};
use ahash::AHashMap;
use document_store::{Document, DocumentKey, KEPT_REVISIONS, Revision, StoreError, Unflushed};
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes that may wait to be flushed.
const WAITING_BYTES: usize = 64 << 20;
/// Documents in one transaction at most.
pub const DOCUMENTS: usize = 512;
/// Bytes in one transaction, beyond which no further document joins.
const BYTES: usize = 8 << 20;
/// Documents that are flushed together, unless more are urgent or have gathered than this keeps up with: so the database
/// is never busy for long while others want its processor.
const BATCH: usize = 192;
/// What part of all that waits a larger batch is.
const SHARE: usize = 8;
/// How long what nobody waits for is held back, so that more goes with it: until a batch has gathered, or so many times
/// as long as the last flush took; but no less and no more than the pauses.
const REST: u32 = 3;
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(100));
/// How many documents may wait before they are flushed without pauses.
const BEHIND: usize = SHARE * DOCUMENTS;

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

/// What waits of one document.
struct Part {
    unflushed: Unflushed,
    wanted: Vec<Wanted>,
    bytes: usize,
}

impl Part {
    fn new(flush: Flush) -> Self {
        let Flush { document, revisions, wanted } = flush;
        let bytes = document.data.as_str().len() + bytes_of(&revisions);
        Self { unflushed: Unflushed { document: (*document).clone(), revisions }, wanted, bytes }
    }

    /// Adds what was written later. Of the revisions no more wait than are kept, here as in Redis.
    fn add(&mut self, flush: Flush) {
        let Flush { document, revisions, wanted } = flush;
        let Unflushed { document: before, revisions: waiting } = &mut self.unflushed;
        self.bytes += document.data.as_str().len() + bytes_of(&revisions);
        self.bytes -= before.data.as_str().len();
        *before = (*document).clone();
        waiting.extend(revisions);
        let beyond = waiting.len().saturating_sub(KEPT_REVISIONS as usize);
        self.bytes -= bytes_of(&waiting[..beyond]);
        waiting.drain(..beyond);
        self.wanted.extend(wanted);
    }
}

fn bytes_of(revisions: &[Revision]) -> usize {
    revisions.iter().map(|revision| revision.diff.as_str().len() + revision.undo.len()).sum()
}

/// What waits, by document.
#[derive(Default)]
struct Parts {
    parts: AHashMap<DocumentKey, Part>,
    /// Documents in the order in which they came; some may be gone.
    order: VecDeque<DocumentKey>,
    /// Those that somebody waits for, which go first.
    urgent: VecDeque<DocumentKey>,
    bytes: usize,
}

impl Parts {
    fn add(&mut self, flush: Flush) {
        let (key, is_wanted) = (flush.document.key.clone(), !flush.wanted.is_empty());
        match self.parts.get_mut(&key) {
            Some(part) => {
                let (bytes, was_wanted) = (part.bytes, !part.wanted.is_empty());
                part.add(flush);
                self.bytes = self.bytes + part.bytes - bytes;
                if is_wanted && !was_wanted {
                    self.urgent.push_back(key);
                }
            }
            None => {
                let part = Part::new(flush);
                self.bytes += part.bytes;
                let queue = if is_wanted { &mut self.urgent } else { &mut self.order };
                queue.push_back(key.clone());
                self.parts.insert(key, part);
            }
        }
        if self.order.len() > 2 * self.parts.len() + DOCUMENTS {
            self.order.retain(|key| self.parts.contains_key(key));
        }
    }

    /// Takes a batch.
    fn take(&mut self) -> Vec<Part> {
        let most = self.urgent.len().max(self.parts.len() / SHARE).clamp(BATCH, DOCUMENTS);
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < most
            && bytes < BYTES
            && let Some(key) = self.urgent.pop_front().or_else(|| self.order.pop_front())
        {
            if let Some(part) = self.parts.remove(&key) {
                bytes += part.bytes;
                taken.push(part);
            }
        }
        self.bytes -= bytes;
        taken
    }
}

/// What waits, and who is told of it.
#[derive(Default)]
pub struct Waiting {
    parts: Mutex<Parts>,
    /// Rung where something waits.
    given: Notify,
    /// Rung where somebody waits for it.
    urged: Notify,
    /// Rung where a batch has gathered.
    gathered: Notify,
    /// Rung where there may be room again.
    taken: Notify,
}

impl Waiting {
    /// Whether something of this document waits.
    pub fn holds(&self, key: &DocumentKey) -> bool {
        self.parts.lock().parts.contains_key(key)
    }
}

/// The lanes' end.
#[derive(Clone)]
pub struct Parting {
    waiting: Arc<Waiting>,
    /// Gone with the last lane.
    _giver: mpsc::Sender<()>,
}

impl Parting {
    /// Hands on what was written; waits where somebody waits for it and there is no room.
    pub async fn give(&self, flush: Flush) {
        let is_wanted = !flush.wanted.is_empty();
        let count = loop {
            let taken = self.waiting.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            {
                let mut parts = self.waiting.parts.lock();
                if parts.bytes < WAITING_BYTES {
                    parts.add(flush);
                    break parts.parts.len();
                }
            }
            if !is_wanted {
                return;
            }
            taken.await;
        };
        self.waiting.given.notify_one();
        if count == BATCH {
            self.waiting.gathered.notify_one();
        }
        if is_wanted {
            self.waiting.urged.notify_one();
        }
    }
}

/// The flusher's end.
pub struct Flusher {
    ground: Arc<Ground>,
    lanes: Arc<[mpsc::Sender<Command>]>,
    waiting: Arc<Waiting>,
    givers: mpsc::Receiver<()>,
}

/// Both ends, and what is between them.
pub fn start(ground: Arc<Ground>, lanes: Arc<[mpsc::Sender<Command>]>) -> (Parting, Flusher, Arc<Waiting>) {
    let (giver, givers) = mpsc::channel(1);
    let waiting = Arc::<Waiting>::default();
    let flusher = Flusher { ground, lanes, waiting: waiting.clone(), givers };
    (Parting { waiting: waiting.clone(), _giver: giver }, flusher, waiting)
}

impl Flusher {
    /// Flushes until every lane has ended and nothing waits.
    pub async fn run(mut self) {
        let (mut pause, mut is_last) = (PAUSES.0, false);
        loop {
            let parts = self.waiting.parts.lock().take();
            self.waiting.taken.notify_waiters();
            if !parts.is_empty() {
                let begun = Instant::now();
                self.flush(parts).await;
                pause = (begun.elapsed() * REST).clamp(PAUSES.0, PAUSES.1);
            } else if is_last {
                return;
            } else {
                is_last = self.more().await;
            }
            is_last = is_last || self.pause(pause).await;
        }
    }

    /// Waits until something waits; answers whether nothing will any more.
    async fn more(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.waiting.given.notified() => false,
            _ = self.givers.recv() => true,
        }
    }

    /// Lets more gather until there is a batch, unless somebody waits for it or there is much; answers whether nothing
    /// more will come.
    async fn pause(&mut self, pause: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let pause = {
                let parts = self.waiting.parts.lock();
                match parts.parts.len() {
                    count if count >= BEHIND || !parts.urgent.is_empty() => return false,
                    count if count >= BATCH => PAUSES.0,
                    _ => pause,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause.saturating_sub(begun.elapsed())) => return false,
                () = self.waiting.urged.notified() => {}
                () = self.waiting.gathered.notified() => {}
                _ = self.givers.recv() => return true,
            }
        }
    }

    async fn flush(&self, parts: Vec<Part>) {
        let (mut documents, mut wanted) = (Vec::with_capacity(parts.len()), Vec::new());
        for part in parts {
            documents.push(part.unflushed);
            wanted.extend(part.wanted);
        }
        let outcome: Result<HashSet<DocumentKey>, _> =
            flush::flush(&self.ground, &self.lanes, documents).await;
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

fn refused_later() -> StoreError {
    StoreError::Unavailable("the write was not committed: the database holds something else".to_owned())
}

#[cfg(test)]
mod tests;
