//! The service: every operation on documents, over whatever store it was given.

use crate::{
    edit::{Clock, Creation, Make, Rules, Update, missing},
    mutate::Mutations,
};
use document_store::{
    Change, Document, DocumentKey, DocumentPage, DocumentQuery, DocumentStore, Durability, Edit, Revision,
    RevisionPage, RevisionQuery, ServiceKey,
};
use metrics::Metrics;
use serde_json::value::RawValue;
use shared_types::{EventId, Problem, RawObject};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// How often a creation is tried anew behind a document whose time had come.
const TRIES: usize = 3;
/// How many revisions are read at once on the way back.
const REVISIONS_AT_ONCE: usize = 100;
/// Bytes of revisions that are read at once.
const REVISION_BYTES: usize = 8 << 20;

/// How documents are kept.
#[derive(Clone)]
pub struct DocumentsSettings {
    /// Bytes of a document's data.
    pub max_bytes: usize,
    /// What an answer means where the request does not say (`SYNC_WRITE_MODE`).
    pub durability: Durability,
    /// Answers the Unix milliseconds of now.
    pub clock: Clock,
}

/// A document to create.
#[derive(Clone, Debug)]
pub struct NewDocument {
    /// Its data.
    pub data: RawObject,
    /// When it is to be deleted. Unix milliseconds.
    pub expires_at: Option<i64>,
    /// The id that its event gets, where a repeat of the request must be recognized: if the document was created with
    /// this very event before, that is answered as if it had happened now.
    pub event_id: Option<EventId>,
}

/// What a write may say beside what it writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// The revision that the document must be at.
    pub expected_revision: Option<u64>,
    /// When it is to be deleted from now on, in Unix milliseconds: `Some(None)` for never. Heeded where data is
    /// written by replacing and merging.
    pub expires_at: Option<Option<i64>>,
    /// What the answer means.
    pub durability: Option<Durability>,
}

/// All operations on documents.
pub struct Documents {
    pub(crate) store: Arc<dyn DocumentStore>,
    pub(crate) rules: Rules,
    metrics: Arc<Metrics>,
    durability: Durability,
}

impl Documents {
    /// The service over `store`.
    pub fn new(store: Arc<dyn DocumentStore>, metrics: Arc<Metrics>, settings: DocumentsSettings) -> Self {
        let DocumentsSettings { max_bytes, durability, clock } = settings;
        Self { store, rules: Rules { clock, max_bytes }, metrics, durability }
    }

    /// Creates a document.
    ///
    /// # Errors
    /// `CONFLICT` where the id is in use, `LIMIT_EXCEEDED`, and what the store says.
    pub async fn create(
        &self,
        key: &DocumentKey,
        new: NewDocument,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        let NewDocument { data, expires_at, event_id } = new;
        let creation = Creation { data, expires_at, event_id };
        for _ in 0..TRIES {
            let expired = Arc::new(AtomicBool::new(false));
            let edit = self.rules.create(key, creation.clone(), expired.clone());
            let refused = match self.write(key, Change::Created, edit, options).await {
                Err(problem) if problem.code == "CONFLICT" => problem,
                outcome => return outcome,
            };
            if expired.load(Ordering::Acquire) {
                self.expire(key).await?;
                continue;
            }
            let earlier = match &creation.event_id {
                Some(event_id) => self.created_by(key, event_id).await?,
                None => None,
            };
            return earlier.ok_or(refused);
        }
        Err(Problem::unavailable("the document is being written by many; try again"))
    }

    /// A document that is there.
    ///
    /// # Errors
    /// `NOT_FOUND`, and what the store says.
    pub async fn get(&self, key: &DocumentKey) -> Result<Document, Problem> {
        let found = self.store.get(key).await?;
        found.filter(|document| document.is_alive(self.now())).ok_or_else(|| missing(key))
    }

    /// A page of a service's documents; `now_ms` of the query is set here.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list(&self, service: &ServiceKey, query: DocumentQuery) -> Result<DocumentPage, Problem> {
        Ok(self.store.list(service, DocumentQuery { now_ms: self.now(), ..query }).await?)
    }

    /// Replaces all data.
    ///
    /// # Errors
    /// `NOT_FOUND`, `REVISION_CONFLICT`, `LIMIT_EXCEEDED`, and what the store says.
    pub async fn replace(
        &self,
        key: &DocumentKey,
        data: RawObject,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        self.update(key, Arc::new(move |_| Ok(data.as_str().to_owned())), options).await
    }

    /// Merges `patch` into the data, deeply. Without an expected revision a merge that meets another writer is done
    /// again on what that one left.
    ///
    /// # Errors
    /// As [`Documents::replace`].
    pub async fn merge(
        &self,
        key: &DocumentKey,
        patch: RawObject,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        self.update(key, Arc::new(move |data| Ok(crate::merge(data, patch.as_str()))), options).await
    }

    /// Applies mutations to the data, all or none; as merging where another writer is met.
    ///
    /// # Errors
    /// As [`Documents::replace`], and `INVALID_MUTATION` naming the operation.
    pub async fn mutate(
        &self,
        key: &DocumentKey,
        mutations: Mutations,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        self.update(key, Arc::new(move |data| mutations.apply(data)), options).await
    }

    /// Deletes a document; answers it as it was last.
    ///
    /// # Errors
    /// `NOT_FOUND`, `REVISION_CONFLICT`, and what the store says.
    pub async fn delete(&self, key: &DocumentKey, options: WriteOptions) -> Result<Document, Problem> {
        let edit = self.rules.delete(key, options.expected_revision);
        self.write(key, Change::Deleted, edit, options).await
    }

    /// A page of a document's revisions; those of a deleted one too.
    ///
    /// # Errors
    /// `NOT_FOUND` where there never was such a document, and what the store says.
    pub async fn revisions(&self, key: &DocumentKey, query: RevisionQuery) -> Result<RevisionPage, Problem> {
        let page = self.store.revisions(key, query).await?;
        if page.revisions.is_empty() && self.store.get(key).await?.is_none() {
            return Err(missing(key));
        }
        Ok(page)
    }

    /// Puts the data of a kept revision back, as a new revision; a deleted document comes back by it.
    ///
    /// # Errors
    /// `NOT_FOUND` where there never was such a document or the revision is not kept, `VALIDATION_FAILED` where it is
    /// a deletion, `REVISION_CONFLICT`, and what the store says.
    pub async fn restore(
        &self,
        key: &DocumentKey,
        revision: u64,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        let document = self.store.get(key).await?.ok_or_else(|| missing(key))?;
        let (found, data) = self.as_of(&document, revision).await?;
        if found.change == Change::Deleted {
            return Err(Problem::field("revision", "is the document's deletion; restore one before it"));
        }
        let change = if document.deleted { Change::Created } else { Change::Updated };
        let edit = self.rules.restore(key, options.expected_revision, data);
        self.write(key, change, edit, options).await
    }

    async fn update(
        &self,
        key: &DocumentKey,
        make: Make,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        let WriteOptions { expected_revision: expected, expires_at, .. } = options;
        let edit = self.rules.update(key, Update { expected, expires_at, make });
        self.write(key, Change::Updated, edit, options).await
    }

    pub(crate) async fn write(
        &self,
        key: &DocumentKey,
        change: Change,
        edit: Edit,
        options: WriteOptions,
    ) -> Result<Document, Problem> {
        let durability = options.durability.unwrap_or(self.durability);
        let document = self.store.commit(key, edit, durability).await?;
        self.metrics.received("sync", change.topic(&key.service).as_str());
        Ok(document)
    }

    pub(crate) fn now(&self) -> i64 {
        (self.rules.clock)()
    }

    /// What `document` said at `revision`, which must be kept, as must all behind it.
    async fn as_of(&self, document: &Document, revision: u64) -> Result<(Revision, RawObject), Problem> {
        let not_kept = || Problem::not_found("revision", &revision.to_string());
        let mut data = document.data.as_str().to_owned();
        let mut next = document.revision;
        loop {
            let query = RevisionQuery {
                before: next.checked_add(1),
                limit: REVISIONS_AT_ONCE,
                bytes: REVISION_BYTES,
            };
            let page = self.store.revisions(&document.key, query).await?;
            for found in page.revisions {
                if found.revision != next || next < revision {
                    return Err(not_kept());
                }
                if found.revision == revision {
                    return Ok((found, RawObject::from_trusted(data)));
                }
                data = undone(data, found.undo).await?;
                next -= 1;
            }
            if !page.more {
                return Err(not_kept());
            }
        }
    }

    /// The document as the event `event_id` created it, if that is kept.
    async fn created_by(&self, key: &DocumentKey, event_id: &EventId) -> Result<Option<Document>, Problem> {
        let Some(document) = self.store.get(key).await? else { return Ok(None) };
        let query = RevisionQuery { before: None, limit: REVISIONS_AT_ONCE, bytes: REVISION_BYTES };
        let page = self.store.revisions(key, query).await?;
        let created =
            page.revisions.into_iter().find(|r| r.change == Change::Created && r.event_id == *event_id);
        let Some(created) = created else { return Ok(None) };
        if created.revision == document.revision {
            return Ok(Some(document));
        }
        let (_, data) = self.as_of(&document, created.revision).await?;
        let (revision, at) = (created.revision, created.at);
        Ok(Some(Document { revision, data, created_at: at, updated_at: at, deleted: false, ..document }))
    }
}

/// `data` before the revision that remembers `undo`.
async fn undone(data: String, undo: Arc<str>) -> Result<String, Problem> {
    if &*undo == "[]" {
        return Ok(data);
    }
    // Large documents are more work than a task may do between two turns.
    tokio::task::spawn_blocking(move || undo_one(&data, &undo))
        .await
        .unwrap_or_else(|_| Err(Problem::internal()))
}

fn undo_one(data: &str, undo: &str) -> Result<String, Problem> {
    let broken = |problem: &dyn std::fmt::Display| {
        tracing::error!(%problem, "a stored revision does not lead back");
        Problem::internal()
    };
    let undo: &RawValue = serde_json::from_str(undo).map_err(|error| broken(&error))?;
    Mutations::parse_undo(undo)
        .and_then(|operations| operations.reverse(data))
        .map_err(|problem| broken(&problem))
}
