//! Where documents last, behind a store that keeps them hot elsewhere.

use crate::{
    Document, DocumentKey, DocumentPage, DocumentQuery, Revision, RevisionPage, RevisionQuery, ServiceKey,
    StoreError,
};
use futures::future::BoxFuture;

/// What the archive holds of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archived {
    /// There never was such a document.
    Never,
    /// The document, a deleted one too.
    Document(Document),
    /// There is no such application or environment: nothing may be written there.
    NoScope,
}

/// A document that the archive may not have yet.
#[derive(Clone, Debug)]
pub struct Unflushed {
    /// As it stands.
    pub document: Document,
    /// What is remembered of its revisions, of those that are not archived for certain; lowest first.
    pub revisions: Vec<Revision>,
}

/// What became of an [`Unflushed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// The archive holds the document at this revision.
    Held,
    /// The archive holds a higher revision, and kept it. The revisions' records were written all the same.
    Newer {
        /// Which.
        revision: u64,
    },
    /// There is no such application or environment any more; nothing was written.
    NoScope,
}

/// The place to which documents are flushed, and from which cold ones are loaded.
pub trait DocumentArchive: Send + Sync {
    /// What it holds of each of `keys`, in their order.
    ///
    /// # Errors
    /// `Unavailable` or `Internal`.
    fn load(&self, keys: Vec<DocumentKey>) -> BoxFuture<'static, Result<Vec<Archived>, StoreError>>;

    /// Writes documents, each together with its revisions, none of which replaces a higher revision, as long as the hot
    /// store's life is still `generation`; `None` where it is not, and not all was written.
    ///
    /// # Errors
    /// As [`DocumentArchive::load`]; then it is not known what was written.
    fn keep(
        &self,
        generation: String,
        documents: Vec<Unflushed>,
    ) -> BoxFuture<'static, Result<Option<Vec<Flushed>>, StoreError>>;

    /// As [`crate::DocumentStore::list`].
    ///
    /// # Errors
    /// As [`DocumentArchive::load`].
    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'static, Result<DocumentPage, StoreError>>;

    /// As [`crate::DocumentStore::revisions`].
    ///
    /// # Errors
    /// As [`DocumentArchive::load`].
    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'static, Result<RevisionPage, StoreError>>;

    /// As [`crate::DocumentStore::due`].
    ///
    /// # Errors
    /// As [`DocumentArchive::load`].
    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'static, Result<Vec<DocumentKey>, StoreError>>;

    /// As [`crate::DocumentStore::forget_revisions`].
    ///
    /// # Errors
    /// As [`DocumentArchive::load`].
    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'static, Result<u64, StoreError>>;
}
