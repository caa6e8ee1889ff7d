//! An archive that a test can hold up, or let fail, in front of the real one.

use database::documents::PostgresArchive;
use document_store::{
    Archived, DocumentArchive, DocumentKey, DocumentPage, DocumentQuery, Flushed, RevisionPage,
    RevisionQuery, ServiceKey, StoreError, Unflushed,
};
use futures::future::BoxFuture;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use testkit::TestDatabase;

/// The archive, which takes nothing while it is `closed`.
pub struct Door {
    behind: PostgresArchive,
    closed: AtomicBool,
}

impl Door {
    /// A closed one in front of `database`.
    pub fn closed(database: &TestDatabase) -> Arc<Self> {
        Arc::new(Self { behind: PostgresArchive::new(database.pool.clone()), closed: AtomicBool::new(true) })
    }

    /// Lets documents through from now on.
    pub fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }
}

impl DocumentArchive for Door {
    fn load(&self, keys: Vec<DocumentKey>) -> BoxFuture<'static, Result<Vec<Archived>, StoreError>> {
        self.behind.load(keys)
    }

    fn keep(
        &self,
        generation: String,
        documents: Vec<Unflushed>,
    ) -> BoxFuture<'static, Result<Option<Vec<Flushed>>, StoreError>> {
        if self.closed.load(Ordering::Acquire) {
            return Box::pin(async { Err(StoreError::Unavailable("the door is closed".to_owned())) });
        }
        self.behind.keep(generation, documents)
    }

    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'static, Result<DocumentPage, StoreError>> {
        self.behind.list(service, query)
    }

    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'static, Result<RevisionPage, StoreError>> {
        self.behind.revisions(key, query)
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'static, Result<Vec<DocumentKey>, StoreError>> {
        self.behind.due(now_ms, limit)
    }

    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.behind.forget_revisions(before_ms)
    }
}
