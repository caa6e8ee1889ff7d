//! Documents on PostgreSQL.
//!
//! Owns `sync_documents` and `sync_document_revisions`. Edits go through the event log's writer, so that a document,
//! its revision and its event are committed together, and many of them in one transaction (`edits`); reading goes by
//! the pool (`reading`). Where another store stands in front, its documents come to rest here (`archive`, `keep`). What an
//! edit does to a document enters as a pure function; knows nothing of merging or diffs.

mod archive;
mod edits;
mod keep;
mod reading;

pub use archive::PostgresArchive;
pub use edits::EditRequest;
pub(crate) use edits::{Edits, MAX_EDITS};

use crate::event_log::{Command, PostgresEventLog};
use document_store::{
    Document, DocumentKey, DocumentPage, DocumentQuery, DocumentStore, Durability, Edit, RevisionPage,
    RevisionQuery, ServiceKey, StoreError,
};
use event_log::LogError;
use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

/// The document store on PostgreSQL, one a process, beside the process's event log.
pub struct PostgresDocumentStore {
    pool: PgPool,
    commands: mpsc::Sender<Command>,
}

impl PostgresDocumentStore {
    /// A store that writes through `log`, which must be on the same database as `pool`.
    pub fn new(pool: PgPool, log: &PostgresEventLog) -> Self {
        Self { pool, commands: log.commands() }
    }
}

impl DocumentStore for PostgresDocumentStore {
    fn commit(
        &self,
        key: &DocumentKey,
        edit: Edit,
        _: Durability,
    ) -> BoxFuture<'static, Result<Document, StoreError>> {
        let (commands, request) = (self.commands.clone(), EditRequest { key: key.clone(), edit });
        Box::pin(async move {
            let stopped = || StoreError::Unavailable("the log is stopping".to_owned());
            let (reply, answer) = oneshot::channel();
            commands.send(Command::Edit { request, reply }).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        })
    }

    fn get(&self, key: &DocumentKey) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
        let key = key.clone();
        Box::pin(async move { reading::get(&self.pool, &key).await.map_err(failed) })
    }

    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'_, Result<DocumentPage, StoreError>> {
        let service = service.clone();
        Box::pin(async move { reading::list(&self.pool, &service, &query).await.map_err(failed) })
    }

    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'_, Result<RevisionPage, StoreError>> {
        let key = key.clone();
        Box::pin(async move { reading::revisions(&self.pool, &key, query).await.map_err(failed) })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Result<Vec<DocumentKey>, StoreError>> {
        Box::pin(async move { reading::due(&self.pool, now_ms, limit).await.map_err(failed) })
    }

    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { reading::forget_revisions(&self.pool, before_ms).await.map_err(failed) })
    }
}

/// The writer's failure as a document's writer is told it.
pub(crate) fn failed(error: LogError) -> StoreError {
    match error {
        LogError::BacklogFull => StoreError::BacklogFull,
        LogError::Unavailable(cause) => StoreError::Unavailable(cause),
        other => StoreError::Internal(other.to_string()),
    }
}
