//! What is wanted of one document, and what becomes of it: pure but for the edits.

use super::cache::Hot;
use crate::event_log::encode;
use bytes::Bytes;
use document_store::{Document, DocumentKey, Durability, Edit, StoreError, Write};
use event_log::{Entry, Identity, TopicKey};
use shared_types::Source;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};
use tokio::sync::oneshot;

/// What is wanted.
pub enum Work {
    /// To edit the document.
    Edit {
        /// How.
        edit: Edit,
        /// What the answer means.
        durability: Durability,
        /// Where it goes.
        reply: oneshot::Sender<Result<Document, StoreError>>,
    },
    /// To see it; loaded, where it was not hot.
    Look {
        /// Where it goes.
        reply: oneshot::Sender<Result<Option<Document>, StoreError>>,
    },
}

impl Work {
    /// Answers that it cannot be done. A caller that went away does not want to know.
    pub fn fail(self, error: StoreError) {
        match self {
            Self::Edit { reply, .. } => drop(reply.send(Err(error))),
            Self::Look { reply } => drop(reply.send(Err(error))),
        }
    }
}

/// A piece of work on a document.
pub struct Task {
    /// Which document.
    pub key: DocumentKey,
    /// What is wanted.
    pub work: Work,
    /// Until when it is tried.
    pub deadline: Instant,
}

/// What becomes of unflushed revisions that Redis holds of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They belong to it.
    Keep,
    /// They belong to a past that did not last.
    Drop,
}

/// A document that was loaded because Redis did not have it, or not for certain.
#[derive(Clone)]
pub struct Loaded {
    /// The document, where there is one.
    pub document: Option<Arc<Document>>,
    /// The head in Redis under which this holds.
    pub head: Arc<str>,
    /// The generation in which it was loaded.
    pub generation: Arc<str>,
    /// What becomes of what Redis holds beside it.
    pub leftovers: Leftovers,
}

/// Upon what work is done.
#[derive(Clone)]
pub enum Base {
    /// Not known: the first thing is to see it.
    Unknown,
    /// What Redis was last seen to hold.
    Hot(Hot),
    /// What was loaded, and is to be put into Redis.
    Loaded(Loaded),
}

impl Base {
    /// The head that Redis must hold for this to be the base, under `generation`; none where it cannot be: what was
    /// seen in another generation says nothing.
    pub fn head(&self, generation: &str) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Hot(hot) => {
                Some(&*hot.head).filter(|head| super::encode::generation_of(head) == generation)
            }
            Self::Loaded(loaded) => Some(&*loaded.head).filter(|_| *loaded.generation == *generation),
        }
    }

    fn document(&self) -> Option<&Arc<Document>> {
        match self {
            Self::Unknown => None,
            Self::Hot(hot) => Some(&hot.document),
            Self::Loaded(loaded) => loaded.document.as_ref(),
        }
    }
}

/// What became of one task.
pub enum Outcome {
    /// The document as the edit left it.
    Written(Arc<Document>),
    /// The edit did not take place.
    Refused(StoreError),
    /// The document as it stood.
    Seen(Option<Arc<Document>>),
}

/// Tasks on one document that are done together, one on the result of the other.
pub struct Group {
    /// Which document.
    pub key: DocumentKey,
    /// Upon what.
    pub base: Base,
    /// The tasks, in the order in which they came.
    pub tasks: Vec<Task>,
    /// What each came to; empty before [`Group::apply`].
    pub outcomes: Vec<Outcome>,
    /// What is written, in order.
    pub writes: Vec<Write>,
    /// The events of what is written, encoded.
    pub events: Vec<(TopicKey, Bytes)>,
    /// The document afterwards.
    pub after: Option<Arc<Document>>,
}

impl Group {
    /// Tasks on `base`.
    pub fn new(key: DocumentKey, base: Base) -> Self {
        Self {
            key,
            base,
            tasks: Vec::new(),
            outcomes: Vec::new(),
            writes: Vec::new(),
            events: Vec::new(),
            after: None,
        }
    }

    /// Bytes of the document upon which is worked.
    pub fn base_bytes(&self) -> usize {
        self.base.document().map_or(0, |document| document.data.as_str().len())
    }

    /// Bytes of what is to be written.
    pub fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(|(_, event)| event.len()).sum();
        events + self.after.as_ref().map_or(0, |document| document.data.as_str().len())
    }

    /// Does all tasks on the base, one on the result of the other. Nothing of an unknown one.
    pub fn apply(&mut self) {
        if matches!(self.base, Base::Unknown) {
            return;
        }
        let mut current = self.base.document().cloned();
        for task in &self.tasks {
            let outcome = match &task.work {
                Work::Look { .. } => Outcome::Seen(current.clone()),
                Work::Edit { edit, .. } => match edited(edit, current.as_deref()) {
                    Ok(write) => {
                        let document = Arc::new(write.document.clone());
                        current = Some(document.clone());
                        self.events.push(event(&write));
                        self.writes.push(write);
                        Outcome::Written(document)
                    }
                    Err(error) => Outcome::Refused(error),
                },
            };
            self.outcomes.push(outcome);
        }
        self.after = current;
    }

    /// Takes back its tasks, to be done again on something else.
    pub fn into_tasks(self) -> Vec<Task> {
        self.tasks
    }
}

/// One that panics fails alone.
fn edited(edit: &Edit, before: Option<&Document>) -> Result<Write, StoreError> {
    match catch_unwind(AssertUnwindSafe(|| edit(before))) {
        Ok(edited) => edited.map_err(StoreError::Refused),
        Err(_) => Err(StoreError::Internal("an edit panicked".to_owned())),
    }
}

fn event(write: &Write) -> (TopicKey, Bytes) {
    let key = TopicKey::new(&write.document.key.scope, &write.event.topic);
    let entry = Entry {
        key: key.clone(),
        id: write.event.id.clone(),
        source: Source::Sync,
        kind: write.event.kind.into(),
        payload: write.event.payload.clone(),
        metadata: write.event.metadata.clone(),
        identity: Identity::Unique,
    };
    (key, encode::encode(&entry))
}
