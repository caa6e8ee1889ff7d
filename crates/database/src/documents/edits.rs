//! The documents' part of one transaction of the group commit: lock and load, edit, write.
//!
//! Documents are locked by their keys in order, before any partition is. A document that is not there yet cannot be
//! locked; should another process create it meanwhile, the insert shows it, and the transaction is done again.

use super::reading;
use crate::event_log::Request;
use chrono::{DateTime, Utc};
use document_store::{Document, DocumentKey, Edit, KEPT_REVISIONS, Write};
use event_log::{Entry, Identity, TopicKey};
use shared_types::{Problem, Source};
use sqlx::{PgConnection, Postgres, Transaction};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How many edits share a transaction at most: each may hold a document, its diff and its event in memory.
pub(crate) const MAX_EDITS: usize = 64;
/// Bytes of documents beyond which they are not edited between two turns of other tasks.
const LARGE: usize = 128 << 10;
/// Revisions beyond those that are kept are removed whenever a document's revision passes a multiple of this: those that
/// were not when it passed the one before.
const PRUNE_EVERY: u64 = 16;
/// Whenever it passes a multiple of this, all of them, however they were left.
const PRUNE_ALL_EVERY: u64 = 512;

/// An edit that waits for the writer.
#[derive(Clone)]
pub struct EditRequest {
    /// Of which document.
    pub key: DocumentKey,
    /// What it does.
    pub edit: Edit,
}

/// The outcomes of a transaction's edits, in the order of the requests.
#[derive(Default)]
pub(crate) struct Edits {
    outcomes: Vec<Result<Write, Problem>>,
    /// The revision at which each written document stood before, 0 where there was none.
    bases: BTreeMap<DocumentKey, u64>,
}

impl Edits {
    /// Locks and loads what the edits among `requests` are about, and edits it in their order.
    pub async fn prepare(
        tx: &mut Transaction<'_, Postgres>,
        requests: &[Request],
    ) -> Result<Self, sqlx::Error> {
        let requests: Vec<EditRequest> = requests.iter().filter_map(Request::edit).cloned().collect();
        if requests.is_empty() {
            return Ok(Self::default());
        }
        let found = lock(tx, requests.iter().map(|request| &request.key).collect()).await?;
        let bytes = |request: &EditRequest| found.get(&request.key).map_or(0, |d| d.data.as_str().len());
        let edited = match requests.iter().map(bytes).sum::<usize>() > LARGE {
            // More work than a task may do between two turns.
            true => tokio::task::spawn_blocking(move || apply(requests, found)).await.ok(),
            false => apply_here(requests, found).await,
        };
        // Its transaction ends, and the others' are tried by themselves.
        edited.ok_or_else(|| sqlx::Error::Decode("an edit panicked".into()))
    }

    /// Does one edit on what those before it left in `current`; answers the bytes of what it wrote.
    fn add(&mut self, request: EditRequest, current: &mut HashMap<DocumentKey, Document>) -> usize {
        let EditRequest { key, edit } = request;
        let before = current.get(&key);
        let base = before.map_or(0, |document| document.revision);
        let outcome = edit(before);
        let mut bytes = 0;
        if let Ok(write) = &outcome {
            bytes = write.event.payload.as_str().len();
            self.bases.entry(key.clone()).or_insert(base);
            current.insert(key, write.document.clone());
        }
        self.outcomes.push(outcome);
        bytes
    }

    /// What became of each document, with what is to be appended, or why it is not written.
    pub fn outcomes(&self) -> impl Iterator<Item = Result<(Document, Entry), Problem>> {
        self.outcomes.iter().map(|outcome| match outcome {
            Ok(write) => Ok((write.document.clone(), entry(write))),
            Err(problem) => Err(problem.clone()),
        })
    }

    /// Writes documents and revisions; `false` where another process has created one of the documents meanwhile, and
    /// the transaction must be done again.
    pub async fn write(&self, tx: &mut Transaction<'_, Postgres>) -> Result<bool, sqlx::Error> {
        if self.bases.is_empty() {
            return Ok(true);
        }
        let created = self.bases.values().filter(|&&base| base == 0).count();
        if write(tx, &self.last(), &self.writes().collect::<Vec<_>>()).await? != created as i64 {
            return Ok(false);
        }
        prune(tx, &self.last()).await?;
        Ok(true)
    }

    fn writes(&self) -> impl Iterator<Item = &Write> {
        self.outcomes.iter().flatten()
    }

    /// Each written document as it stands in the end, with its base.
    fn last(&self) -> Vec<(&Document, u64)> {
        let mut last: BTreeMap<&DocumentKey, &Document> = BTreeMap::new();
        for write in self.writes() {
            last.insert(&write.document.key, &write.document);
        }
        last.into_iter().map(|(key, document)| (document, self.bases[key])).collect()
    }
}

/// The entry that a write appends to the log.
fn entry(write: &Write) -> Entry {
    Entry {
        key: TopicKey::new(&write.document.key.scope, &write.event.topic),
        id: write.event.id.clone(),
        source: Source::Sync,
        kind: write.event.kind.into(),
        payload: write.event.payload.clone(),
        metadata: write.event.metadata.clone(),
        identity: Identity::Unique,
    }
}

fn apply(requests: Vec<EditRequest>, mut current: HashMap<DocumentKey, Document>) -> Edits {
    let mut edits = Edits::default();
    for request in requests {
        edits.add(request, &mut current);
    }
    edits
}

/// As [`apply`], between turns of other tasks; `None` where an edit panics.
async fn apply_here(
    requests: Vec<EditRequest>,
    mut current: HashMap<DocumentKey, Document>,
) -> Option<Edits> {
    let mut edits = Edits::default();
    let mut bytes = 0;
    for request in requests {
        bytes += catch_unwind(AssertUnwindSafe(|| edits.add(request, &mut current))).ok()?;
        if bytes > LARGE {
            bytes = 0;
            tokio::task::yield_now().await;
        }
    }
    Some(edits)
}

async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    keys: BTreeSet<&DocumentKey>,
) -> Result<HashMap<DocumentKey, Document>, sqlx::Error> {
    let rows = sqlx::query(
        "select d.application_id, d.environment, d.service, d.id, d.revision, d.data, d.deleted, d.created_at, \
                d.updated_at, d.expires_at \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as w(application_id, environment, service, id) \
         join sync_documents d using (application_id, environment, service, id) \
         order by d.application_id, d.environment, d.service, d.id for update of d",
    )
    .bind(keys.iter().map(|key| key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.service.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    let documents = rows.iter().map(reading::document);
    documents.map(|document| document.map(|document| (document.key.clone(), document))).collect()
}

/// A time as the database takes it.
pub(super) fn time(unix_ms: i64) -> Result<DateTime<Utc>, sqlx::Error> {
    let out_of_range = || sqlx::Error::Encode("a time that no calendar has".into());
    DateTime::from_timestamp_millis(unix_ms).ok_or_else(out_of_range)
}

/// Writes everything in one statement; answers how many documents were inserted.
async fn write(
    tx: &mut Transaction<'_, Postgres>,
    documents: &[(&Document, u64)],
    writes: &[&Write],
) -> Result<i64, sqlx::Error> {
    let query = sqlx::query_scalar(
        "with w as ( \
             select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], \
                                  $7::text[], $8::bool[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[]) \
                  as w(application_id, environment, service, id, base, revision, data, deleted, created_at, \
                       updated_at, expires_at) \
         ), changed as ( \
             update sync_documents d set revision = w.revision, data = w.data, deleted = w.deleted, \
                    created_at = w.created_at, updated_at = w.updated_at, expires_at = w.expires_at \
             from w where w.base > 0 and d.application_id = w.application_id and d.environment = w.environment \
                      and d.service = w.service and d.id = w.id \
         ), remembered as ( \
             insert into sync_document_revisions (application_id, environment, service, id, revision, change, diff, \
                                                  undo, event_id, created_at) \
             select * from unnest($12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::text[], \
                                  $18::text[], $19::text[], $20::text[], $21::timestamptz[]) \
             on conflict do nothing \
         ), created as ( \
             insert into sync_documents (application_id, environment, service, id, revision, data, deleted, \
                                         created_at, updated_at, expires_at) \
             select application_id, environment, service, id, revision, data, deleted, created_at, updated_at, \
                    expires_at from w where base = 0 \
             on conflict on constraint sync_documents_pkey do nothing returning 1 \
         ) \
         select count(*) from created",
    );
    let keys = || documents.iter().map(|(document, _)| &document.key);
    let query = query
        .bind(keys().map(|key| key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.service.as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.id.as_str()).collect::<Vec<_>>())
        .bind(documents.iter().map(|(_, base)| *base as i64).collect::<Vec<_>>())
        .bind(documents.iter().map(|(d, _)| d.revision as i64).collect::<Vec<_>>())
        .bind(documents.iter().map(|(d, _)| d.data.as_str()).collect::<Vec<_>>())
        .bind(documents.iter().map(|(d, _)| d.deleted).collect::<Vec<_>>())
        .bind(documents.iter().map(|(d, _)| time(d.created_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(documents.iter().map(|(d, _)| time(d.updated_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(
            documents
                .iter()
                .map(|(d, _)| d.expires_at.map(time).transpose())
                .collect::<Result<Vec<_>, _>>()?,
        );
    let keys = || writes.iter().map(|write| &write.document.key);
    query
        .bind(keys().map(|key| key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.service.as_str()).collect::<Vec<_>>())
        .bind(keys().map(|key| key.id.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| w.revision.revision as i64).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| w.revision.change.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| w.revision.diff.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| &*w.revision.undo).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| w.revision.event_id.as_str()).collect::<Vec<_>>())
        .bind(writes.iter().map(|w| time(w.revision.at)).collect::<Result<Vec<_>, _>>()?)
        .fetch_one(&mut **tx)
        .await
}

/// Removes revisions beyond those that are kept, of documents that have gathered some; each comes with the revision at
/// which it stood before.
///
/// Rows that are removed stay in the index until the table is vacuumed, and whoever begins at the first revision goes by
/// all of them. So it mostly begins where the last time ended.
pub(super) async fn prune(
    connection: &mut PgConnection,
    documents: &[(&Document, u64)],
) -> Result<(), sqlx::Error> {
    let due: Vec<(&Document, u64)> = documents
        .iter()
        .filter_map(|&(document, base)| beyond(document.revision, base).map(|after| (document, after)))
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let keys = || due.iter().map(|(document, _)| &document.key);
    sqlx::query(
        "delete from sync_document_revisions r \
         using unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) \
               as w(application_id, environment, service, id, after, upto) \
         where r.application_id = w.application_id and r.environment = w.environment and r.service = w.service \
           and r.id = w.id and r.revision > w.after and r.revision <= w.upto",
    )
    .bind(keys().map(|key| key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(keys().map(|key| key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(keys().map(|key| key.service.as_str()).collect::<Vec<_>>())
    .bind(keys().map(|key| key.id.as_str()).collect::<Vec<_>>())
    .bind(due.iter().map(|(_, after)| *after as i64).collect::<Vec<_>>())
    .bind(due.iter().map(|(document, _)| (document.revision - KEPT_REVISIONS) as i64).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Behind which revision those to be removed begin, where some are, of a document that went from `base` to `revision`.
fn beyond(revision: u64, base: u64) -> Option<u64> {
    let passed = |every| revision / every > base / every;
    if revision <= KEPT_REVISIONS || !passed(PRUNE_EVERY) {
        return None;
    }
    let last = base - base % PRUNE_EVERY;
    Some(if passed(PRUNE_ALL_EVERY) { 0 } else { last.saturating_sub(KEPT_REVISIONS) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_removed_from_where_the_last_time_ended() {
        assert_eq!(beyond(KEPT_REVISIONS, 0), None);
        assert_eq!(beyond(110, 109), None, "no multiple is passed");
        assert_eq!(beyond(112, 111), Some(0));
        assert_eq!(beyond(130, 127), Some(12), "up to 12 they went with revision 112");
        assert_eq!(beyond(300, 170), Some(60));
        assert_eq!(beyond(512, 511), Some(0), "now and then from the first on");
        assert_eq!(beyond(1_030, 500), Some(0));
    }

    /// However a document goes on, what a removal leaves is no more than what is kept and one step.
    #[test]
    fn each_removal_begins_where_the_one_before_ended() {
        for step in 1..200 {
            let (mut base, mut removed) = (0, 0);
            while base < 3_000 {
                let revision = base + step;
                if let Some(after) = beyond(revision, base) {
                    assert!(after <= removed, "{revision} from {base}: {after} is behind {removed}");
                    removed = revision - KEPT_REVISIONS;
                }
                assert!(revision - removed < KEPT_REVISIONS + PRUNE_EVERY + step, "{revision}: {removed}");
                base = revision;
            }
        }
    }
}
