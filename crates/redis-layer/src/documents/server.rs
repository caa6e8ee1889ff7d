//! What is asked of Redis of documents, beside writing them: reading, and forgetting what was flushed.

use super::{Ground, encode};
use crate::{
    connection::{bounded, linked, run_script},
    error::RedisError,
    event_log::{
        lane::now_ms,
        side_effects::{Call, run},
    },
    keys::{self, Partition},
};
use document_store::{Document, DocumentKey, Revision, StoreError, Unflushed};
use event_log::LogError;
use fred::types::Value;
use std::{collections::BTreeMap, time::Duration};

/// How long a read waits for the server.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a read is begun again because the server was started anew.
const ATTEMPTS: usize = 3;
/// How long one asker has to itself what it is handed to flush.
const LEASE_MS: i64 = 3_000;

/// What waits in a partition to be flushed.
#[derive(Debug, Default)]
pub struct Waiting {
    /// How many documents.
    pub count: u64,
    /// Since when the oldest does, in Unix milliseconds.
    pub since: Option<i64>,
    /// Some of them, the oldest first.
    pub documents: Vec<DocumentKey>,
}

/// Whom [`waiting`] hands documents to.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// To this one, unless another one flushes what is left in the partition.
    One(&'a str),
    /// To everybody.
    Anybody,
}

/// How many documents wait in a partition, and at most `limit` of those that have waited since `since_ms`.
///
/// # Errors
/// `Unavailable` or `Internal`.
pub async fn waiting(
    ground: &Ground,
    partition: Partition,
    asker: Asker<'_>,
    since_ms: i64,
    limit: usize,
) -> Result<Waiting, StoreError> {
    let asker = match asker {
        Asker::One(name) => name,
        Asker::Anybody => "",
    };
    let answer = run(&ground.shore, partition, |settled| Call {
        script: settled.scripts.documents.waiting.clone(),
        keys: vec![partition.unflushed(), partition.flusher()],
        arguments: vec![
            asker.into(),
            Value::Integer(LEASE_MS),
            Value::Integer(since_ms),
            Value::Integer(limit as i64),
        ],
    });
    read_waiting(answer.await.map_err(log_failed)?).ok_or_else(unreadable)
}

fn read_waiting(answer: Value) -> Option<Waiting> {
    let Value::Array(parts) = answer else { return None };
    let mut parts = parts.into_iter();
    let count = parts.next()?.as_u64()?;
    let since = parts.next()?.into_string()?.parse::<f64>().ok().map(|since| since as i64);
    let documents =
        parts.map(|name| keys::read_document_name(&name.into_string()?)).collect::<Option<_>>()?;
    Some(Waiting { count, since, documents })
}

/// A document as Redis holds it.
pub enum Read {
    /// For certain, and with its unflushed revisions where these were asked for.
    Here(Unflushed),
    /// It is not there, or was written under another generation: the lane finds out.
    Uncertain {
        /// Whether there are unflushed revisions, where these were asked for.
        has_revisions: bool,
    },
}

/// Reads a document, and lets it live on.
///
/// # Errors
/// `Unavailable` or `Internal`.
pub async fn read(ground: &Ground, key: &DocumentKey) -> Result<Read, StoreError> {
    bounded(attempts(ground, key)).await
}

async fn attempts(ground: &Ground, key: &DocumentKey) -> Result<Read, StoreError> {
    let partition = Partition::of_document(key);
    let mut last = RedisError::UnknownScript;
    for _ in 0..ATTEMPTS {
        let shore = &ground.shore;
        let link = linked(&shore.links, PATIENCE).await?;
        let settled = shore.guard.settled(PATIENCE).await?;
        let script = &settled.scripts.documents.read;
        let ttl = Value::Integer(i64::try_from(ground.ttl.as_millis()).unwrap_or(i64::MAX));
        let names = vec![keys::document(partition, key)];
        match run_script(&link.reads, script, partition, names, vec![ttl]).await {
            Ok(Value::Array(parts)) => {
                let mut parts = parts.into_iter().filter_map(Value::into_string);
                let (Some(head), Some(value)) = (parts.next(), parts.next()) else {
                    return Ok(Read::Uncertain { has_revisions: false });
                };
                return here(key, &settled.generation, &head, &value, Vec::new());
            }
            Ok(_) => return Err(unreadable()),
            Err(RedisError::UnknownScript) => shore.guard.doubt(&settled),
            Err(error @ RedisError::Internal(_)) => return Err(error.into()),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// Reads documents of a partition with their unflushed revisions, in the order of `documents`.
///
/// # Errors
/// `Unavailable` or `Internal`.
pub async fn unflushed(
    ground: &Ground,
    partition: Partition,
    documents: &[DocumentKey],
) -> Result<Vec<Read>, StoreError> {
    let settled = ground.shore.guard.settled(PATIENCE).await?;
    let answer = run(&ground.shore, partition, |settled| Call {
        script: settled.scripts.documents.unflushed.clone(),
        keys: names(partition, documents),
        arguments: Vec::new(),
    });
    let Value::Array(found) = answer.await.map_err(log_failed)? else { return Err(unreadable()) };
    let read = |(key, found): (&DocumentKey, Value)| {
        let (head, value, revisions) = parts_of(found).ok_or_else(unreadable)?;
        here(key, &settled.generation, &head, &value, revisions)
    };
    documents.iter().zip(found).map(read).collect()
}

fn parts_of(found: Value) -> Option<(String, String, Vec<Revision>)> {
    let Value::Array(parts) = found else { return None };
    let [head, value, Value::Array(records)] = <[Value; 3]>::try_from(parts).ok()? else { return None };
    let mut revisions: BTreeMap<u64, Revision> = BTreeMap::new();
    let mut records = records.into_iter().map(Value::into_string);
    while let (Some(number), Some(record)) = (records.next(), records.next()) {
        let revision = encode::read_record(&number?, &record?)?;
        revisions.insert(revision.revision, revision);
    }
    Some((head.into_string()?, value.into_string()?, revisions.into_values().collect()))
}

fn here(
    key: &DocumentKey,
    generation: &str,
    head: &str,
    value: &str,
    revisions: Vec<Revision>,
) -> Result<Read, StoreError> {
    if encode::generation_of(head) != generation {
        return Ok(Read::Uncertain { has_revisions: !revisions.is_empty() });
    }
    let document: Document = encode::document(key, head, value)?;
    Ok(Read::Here(Unflushed { document, revisions }))
}

/// Forgets the revisions of documents of a partition that were flushed under `generation`.
///
/// # Errors
/// `Unavailable` where they stay, to be flushed again.
pub async fn flushed(
    ground: &Ground,
    generation: &str,
    partition: Partition,
    documents: &[&Unflushed],
) -> Result<(), StoreError> {
    let ttl_ms = i64::try_from(ground.ttl.as_millis()).unwrap_or(i64::MAX);
    let answer = run(&ground.shore, partition, |settled| {
        let mut arguments = vec![generation.into(), Value::Integer(now_ms()), Value::Integer(ttl_ms)];
        for Unflushed { document, revisions } in documents {
            arguments.push(keys::document_name(&document.key).into());
            arguments.push(Value::Integer(revisions.len() as i64));
            arguments.extend(revisions.iter().map(|revision| Value::Integer(revision.revision as i64)));
        }
        let keys = documents.iter().map(|unflushed| &unflushed.document.key);
        Call {
            script: settled.scripts.documents.flushed.clone(),
            keys: [partition.meta(), partition.unflushed()]
                .into_iter()
                .chain(names(partition, keys))
                .collect(),
            arguments,
        }
    });
    answer.await.map(|_| ()).map_err(log_failed)
}

/// Forgets documents of a partition whole.
///
/// # Errors
/// `Unavailable` or `Internal`.
pub async fn gone(
    ground: &Ground,
    generation: &str,
    partition: Partition,
    documents: &[&DocumentKey],
) -> Result<(), StoreError> {
    let answer = run(&ground.shore, partition, |settled| Call {
        script: settled.scripts.documents.gone.clone(),
        keys: [partition.meta(), partition.unflushed()]
            .into_iter()
            .chain(names(partition, documents.iter().copied()))
            .collect(),
        arguments: std::iter::once(generation.into())
            .chain(documents.iter().map(|key| keys::document_name(key).into()))
            .collect(),
    });
    answer.await.map(|_| ()).map_err(log_failed)
}

fn names<'a>(partition: Partition, documents: impl IntoIterator<Item = &'a DocumentKey>) -> Vec<String> {
    let names = |key| [keys::document(partition, key), keys::unflushed(partition, key)];
    documents.into_iter().flat_map(names).collect()
}

fn unreadable() -> StoreError {
    StoreError::Internal("an answer about documents cannot be read".to_owned())
}

fn log_failed(error: LogError) -> StoreError {
    match error {
        LogError::Unavailable(cause) => StoreError::Unavailable(cause),
        other => StoreError::Internal(other.to_string()),
    }
}
