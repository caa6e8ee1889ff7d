//! The interface that a document store offers.

use crate::{Document, DocumentId, DocumentKey, Revision, ServiceName, StoreError, Write};
use futures::future::BoxFuture;
use shared_types::{Problem, Scope};
use std::sync::Arc;

/// What an edit does to the document as it stands, or why it does not.
///
/// Pure but for the clock, and called again wherever another writer came first: it must answer from what it is given
/// alone. `None` stands for an id that never had a document; a deleted document is given as such. The answered
/// document must have the same key and the next revision.
pub type Edit = Arc<dyn Fn(Option<&Document>) -> Result<Write, Problem> + Send + Sync>;

/// What an answer to a write means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is as durable as the store's first place is (with Redis its append-only file).
    #[default]
    Acknowledged,
    /// It is committed in Postgres.
    Committed,
}

/// A namespace of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// To whom it belongs.
    pub scope: Scope,
    /// Its name.
    pub service: ServiceName,
}

/// Which documents of a service to list: those that are alive, by id in byte order.
#[derive(Clone, Debug)]
pub struct DocumentQuery {
    /// Behind this one.
    pub after: Option<DocumentId>,
    /// Whose id begins so.
    pub prefix: Option<String>,
    /// At most so many.
    pub limit: usize,
    /// The page ends before the document with which its data would exceed so many bytes, but holds at least one.
    pub bytes: usize,
    /// As of when. Unix milliseconds.
    pub now_ms: i64,
}

/// A page of documents.
#[derive(Clone, Debug)]
pub struct DocumentPage {
    /// By id.
    pub documents: Vec<Document>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// Which revisions to list: the newest first.
#[derive(Clone, Copy, Debug)]
pub struct RevisionQuery {
    /// Below this one.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// The page ends before the revision with which diffs and undos would exceed so many bytes, but holds at least
    /// one.
    pub bytes: usize,
}

/// A page of revisions.
#[derive(Clone, Debug)]
pub struct RevisionPage {
    /// Newest first.
    pub revisions: Vec<Revision>,
    /// Whether there are older ones that are still kept.
    pub more: bool,
}

/// The one place of documents: written in one atomic step together with their events.
pub trait DocumentStore: Send + Sync {
    /// Applies `edit` to the document and, in one atomic step, writes it, remembers the revision and appends its
    /// event; answers the document.
    ///
    /// Edits of one document take effect one after the other, each on the result of the one before, and their events
    /// are appended in that order. Dropping the future does not undo the write.
    ///
    /// # Errors
    /// See [`StoreError`]; after `Unavailable` the write may have happened.
    fn commit(
        &self,
        key: &DocumentKey,
        edit: Edit,
        durability: Durability,
    ) -> BoxFuture<'static, Result<Document, StoreError>>;

    /// A document, deleted ones too; `None` where there never was one.
    fn get(&self, key: &DocumentKey) -> BoxFuture<'_, Result<Option<Document>, StoreError>>;

    /// A page of a service's documents.
    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'_, Result<DocumentPage, StoreError>>;

    /// A page of a document's revisions, of those that are kept.
    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'_, Result<RevisionPage, StoreError>>;

    /// Documents of all tenants whose time had come at `now_ms` and which are not deleted, the earliest first, at
    /// most `limit`. What was written a moment ago may be found, or not be found any more, by a later call only.
    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Result<Vec<DocumentKey>, StoreError>>;

    /// Forgets a portion of the revisions of before `before_ms`; answers how many, 0 where none is left. What a flush that
    /// is under way writes meanwhile is forgotten by a later call.
    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>>;
}

/// How many revisions of a document are kept at least, where they are not too old; a store may keep some more, but
/// answers no more.
pub const KEPT_REVISIONS: u64 = 100;
