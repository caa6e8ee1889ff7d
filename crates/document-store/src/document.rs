//! What is stored: documents, their revisions, and the event that each revision becomes.

use crate::{DocumentId, ServiceName};
use shared_types::{EventId, RawObject, Scope, TopicName};
use std::{fmt, sync::Arc};

/// A document's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    /// To whom it belongs.
    pub scope: Scope,
    /// Its namespace.
    pub service: ServiceName,
    /// Its id there.
    pub id: DocumentId,
}

/// A document as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its place.
    pub key: DocumentKey,
    /// 1 for the first, growing by 1 with every write, deletion and new creation included.
    pub revision: u64,
    /// What it says; of a deleted document what it said last.
    pub data: RawObject,
    /// When it was created (last, where it was deleted before). Unix milliseconds.
    pub created_at: i64,
    /// When it was last written. Unix milliseconds, never less than before.
    pub updated_at: i64,
    /// When it is to be deleted. Unix milliseconds.
    pub expires_at: Option<i64>,
    /// Whether it is deleted: it is not there for anybody, but its revisions count on.
    pub deleted: bool,
}

impl Document {
    /// Whether it is there for somebody who looks at `now_ms`: neither deleted nor past its time.
    pub fn is_alive(&self, now_ms: i64) -> bool {
        !self.deleted && self.expires_at.is_none_or(|at| at > now_ms)
    }
}

/// What a revision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The document came to be, for the first time or again.
    Created,
    /// Its data or its time changed.
    Updated,
    /// It was deleted.
    Deleted,
}

impl Change {
    /// The last part of the event's topic and type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }

    /// One that was read from where we stored it.
    pub fn from_stored(text: &str) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|change| change.as_str() == text)
    }

    /// The topic of such events of `service`.
    pub fn topic(self, service: &ServiceName) -> TopicName {
        // A service's name is short and of characters that topics may have.
        TopicName::from_stored(&["sync.", service.as_str(), ".", self.as_str()].concat())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is remembered of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its number.
    pub revision: u64,
    /// What it did.
    pub change: Change,
    /// `{ added, removed, changed }` as clients get it.
    pub diff: RawObject,
    /// The operations (a JSON array, in the form of `mutate`) that lead from its data back to those before it.
    pub undo: Arc<str>,
    /// The id of its event.
    pub event_id: EventId,
    /// When. Unix milliseconds.
    pub at: i64,
}

/// The event of one revision, with everything but its place in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentEvent {
    /// Its id.
    pub id: EventId,
    /// `sync.{service}.{change}`.
    pub topic: TopicName,
    /// `sync.{change}`.
    pub kind: &'static str,
    /// `{ service, documentId, revision, data, diff }`.
    pub payload: RawObject,
    /// `{ timestamp, … }`.
    pub metadata: RawObject,
}

/// Everything that one edit writes, in one atomic step.
#[derive(Clone, Debug)]
pub struct Write {
    /// The document afterwards, its revision one higher than before.
    pub document: Document,
    /// What is remembered of the revision.
    pub revision: Revision,
    /// What is told of it.
    pub event: DocumentEvent,
}
