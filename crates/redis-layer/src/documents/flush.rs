//! One flush: to the archive in one transaction, and then out of what Redis holds as unflushed.

use super::{
    Ground,
    group::{Task, Work},
    lane::{self, Command},
    server::{self, Read},
};
use crate::keys::Partition;
use document_store::{DocumentKey, Flushed, StoreError, Unflushed};
use futures::future::join_all;
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// How long the generation is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Flushes documents that Redis has acknowledged; answers those of which the archive did not take
/// what was written.
///
/// # Errors
/// Where nothing is known to be flushed: all stay unflushed.
pub async fn flush(
    ground: &Ground,
    lanes: &[mpsc::Sender<Command>],
    documents: Vec<Unflushed>,
) -> Result<HashSet<DocumentKey>, StoreError> {
    if documents.is_empty() {
        return Ok(HashSet::new());
    }
    let settled = ground.shore.guard.settled(PATIENCE).await?;
    let generation = settled.generation.clone();
    let kept = match ground.archive.keep(generation.clone(), documents.clone()).await {
        Ok(Some(kept)) => kept,
        Ok(None) => {
            // The witness says that Redis begins anew: it is settled again, and what holds is flushed by the sweep.
            ground.shore.guard.doubt(&settled);
            ground.shore.metrics.document_flush_failures.inc();
            return Err(StoreError::Unavailable("the generation of redis has changed".to_owned()));
        }
        Err(StoreError::Internal(cause)) if documents.len() > 1 => {
            tracing::warn!(
                cause,
                documents = documents.len(),
                "a flush failed; trying its documents one by one"
            );
            return one_by_one(ground, lanes, documents).await;
        }
        Err(error) => {
            ground.shore.metrics.document_flush_failures.inc();
            ground.failing(&error);
            return Err(error);
        }
    };
    ground.succeeding();
    ground.shore.metrics.documents_flushed.inc_by(documents.len() as u64);
    let mut refused = clean(ground, &generation, &documents, &kept).await;
    let newer = documents.iter().zip(&kept).filter_map(|(unflushed, kept)| match kept {
        Flushed::Newer { revision } => Some((unflushed.document.key.clone(), *revision)),
        _ => None,
    });
    for (key, revision) in newer.collect::<Vec<_>>() {
        if is_behind(ground, &key, revision).await {
            refused.insert(key.clone());
            let lane = &lanes[usize::from(Partition::of_document(&key).0)];
            // Where the lane is gone the process stops; the next one finds the same.
            let _ = lane.send(Command::Doubt(key)).await;
        }
    }
    Ok(refused)
}

/// One document that the archive cannot take must not hold up the others.
async fn one_by_one(
    ground: &Ground,
    lanes: &[mpsc::Sender<Command>],
    documents: Vec<Unflushed>,
) -> Result<HashSet<DocumentKey>, StoreError> {
    let mut refused = HashSet::new();
    for unflushed in documents {
        let key = unflushed.document.key.clone();
        match Box::pin(flush(ground, lanes, vec![unflushed.clone()])).await {
            Ok(more) => refused.extend(more),
            Err(StoreError::Internal(cause)) => {
                tracing::error!(cause, document.id = %key.id, "a document cannot be flushed");
                // It goes behind all others, so that they are not held up by it.
                let later = Unflushed { revisions: Vec::new(), ..unflushed };
                let generation = ground.shore.guard.settled(PATIENCE).await?;
                let partition = Partition::of_document(&key);
                server::flushed(ground, &generation.generation, partition, &[&later]).await?;
                refused.insert(key);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

/// Takes what was flushed out of what Redis holds as unflushed. Where that fails it is flushed again, which changes
/// nothing.
async fn clean(
    ground: &Ground,
    generation: &str,
    documents: &[Unflushed],
    kept: &[Flushed],
) -> HashSet<DocumentKey> {
    let mut by_partition: BTreeMap<Partition, (Vec<&Unflushed>, Vec<&DocumentKey>)> = BTreeMap::new();
    for (unflushed, kept) in documents.iter().zip(kept) {
        let key = &unflushed.document.key;
        let (flushed, gone) = by_partition.entry(Partition::of_document(key)).or_default();
        match kept {
            Flushed::NoScope => gone.push(key),
            Flushed::Held | Flushed::Newer { .. } => flushed.push(unflushed),
        }
    }
    // All at once: they go out together, and nothing holds up the next flush for long.
    let all = by_partition.into_iter().map(async |(partition, (flushed, gone))| {
        clean_partition(ground, generation, partition, &flushed, &gone).await;
        gone
    });
    join_all(all).await.into_iter().flatten().cloned().collect()
}

async fn clean_partition(
    ground: &Ground,
    generation: &str,
    partition: Partition,
    flushed: &[&Unflushed],
    gone: &[&DocumentKey],
) {
    let mut cleaned = Ok(());
    if !flushed.is_empty() {
        cleaned = server::flushed(ground, generation, partition, flushed).await;
    }
    if !gone.is_empty() {
        tracing::warn!(documents = gone.len(), "documents whose application is gone are forgotten");
        cleaned = cleaned.and(server::gone(ground, generation, partition, gone).await);
    }
    if let Err(error) = cleaned {
        tracing::debug!(%error, "could not say in redis what was flushed; it is flushed again");
    }
}

/// The archive holds more than was flushed: another process was faster, or Redis is behind, which it must not be.
async fn is_behind(ground: &Ground, key: &DocumentKey, archived: u64) -> bool {
    match server::read(ground, key).await {
        Ok(Read::Here(here)) if here.document.revision < archived => {}
        _ => return false,
    }
    ground.shore.metrics.document_flush_refusals.inc();
    tracing::error!(
        document.id = %key.id,
        document.service = %key.service,
        document.archived_revision = archived,
        "redis holds an older document than the database; it is loaded again"
    );
    true
}

/// Flushes these documents of a partition from what Redis holds of them; answers how many there were to flush.
///
/// # Errors
/// Where one of them is not known to be flushed.
pub async fn flush_from_redis(
    ground: &Ground,
    lanes: &[mpsc::Sender<Command>],
    partition: Partition,
    documents: &[DocumentKey],
) -> Result<usize, StoreError> {
    let mut found = Vec::new();
    for (key, read) in documents.iter().zip(server::unflushed(ground, partition, documents).await?) {
        match read {
            Read::Here(unflushed) if unflushed.revisions.is_empty() => {}
            Read::Here(unflushed) => found.push(unflushed),
            Read::Uncertain { has_revisions: false } => {}
            Read::Uncertain { .. } => found.extend(settle(ground, lanes, partition, key).await?),
        }
    }
    let count = found.len();
    flush(ground, lanes, found).await?;
    Ok(count)
}

/// Lets the lane find out what holds of a document that was written under another generation; answers what of it is to
/// be flushed then.
async fn settle(
    ground: &Ground,
    lanes: &[mpsc::Sender<Command>],
    partition: Partition,
    key: &DocumentKey,
) -> Result<Option<Unflushed>, StoreError> {
    let seen = look(lanes, key).await?;
    let again = server::unflushed(ground, partition, std::slice::from_ref(key)).await?;
    match again.into_iter().next() {
        Some(Read::Here(unflushed)) if !unflushed.revisions.is_empty() => Ok(Some(unflushed)),
        Some(Read::Here(_)) => Ok(None),
        _ if seen.is_none() => {
            // Revisions without a document: its tenant is gone, or somebody removed its key.
            tracing::warn!(document.id = %key.id, "unflushed revisions of no document are forgotten");
            let settled = ground.shore.guard.settled(PATIENCE).await?;
            server::gone(ground, &settled.generation, partition, &[key]).await?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The document as the lane finds it: hot, or loaded.
///
/// # Errors
/// What the lane says.
pub async fn look(
    lanes: &[mpsc::Sender<Command>],
    key: &DocumentKey,
) -> Result<Option<document_store::Document>, StoreError> {
    let stopped = || StoreError::Unavailable("the store is stopping".to_owned());
    let (reply, answer) = oneshot::channel();
    let task =
        Task { key: key.clone(), work: Work::Look { reply }, deadline: Instant::now() + lane::PATIENCE };
    let lane = &lanes[usize::from(Partition::of_document(key).0)];
    lane.send(Command::Task(task)).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())?
}
