//! What each request makes of a document: its next state, what is remembered of the revision, and its event. Pure but
//! for the clock.

use crate::{compare::compare, node::is_deeper};
use document_store::{Change, Document, DocumentEvent, DocumentKey, Edit, Revision, Write};
use shared_types::{ErrorKind, EventId, Problem, RawObject, Violation, json::MAX_DEPTH};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Answers the Unix milliseconds of now.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a request makes of a document's data.
pub type Make = Arc<dyn Fn(&str) -> Result<String, Problem> + Send + Sync>;

/// What holds for all edits.
#[derive(Clone)]
pub struct Rules {
    pub clock: Clock,
    /// Bytes of a document's data.
    pub max_bytes: usize,
}

/// What an update is asked to do.
#[derive(Clone)]
pub struct Update {
    /// The revision that the document must be at.
    pub expected: Option<u64>,
    /// The time at which it is to be deleted from now on; `Some(None)` for never.
    pub expires_at: Option<Option<i64>>,
    /// Its data.
    pub make: Make,
}

/// A document to create.
#[derive(Clone, Debug)]
pub struct Creation {
    pub data: RawObject,
    pub expires_at: Option<i64>,
    /// The id of its event, where a repeat must be recognized.
    pub event_id: Option<EventId>,
}

impl Rules {
    /// Creates. Refuses where a document is there; one whose time has come, but which nobody has deleted yet, is
    /// reported by `expired`, because its deletion must be told first.
    pub fn create(&self, key: &DocumentKey, creation: Creation, expired: Arc<AtomicBool>) -> Edit {
        let (rules, key) = (self.clone(), key.clone());
        Arc::new(move |before| {
            let now = (rules.clock)();
            if let Some(document) = before.filter(|document| !document.deleted) {
                expired.store(!document.is_alive(now), Ordering::Release);
                return Err(exists(&key));
            }
            let data = creation.data.as_str().to_owned();
            rules.check(&data)?;
            check_time(creation.expires_at, now)?;
            let next = Next { change: Change::Created, data, expires_at: creation.expires_at };
            Ok(write(&key, before, next, now, creation.event_id.clone()))
        })
    }

    /// Replaces, merges, mutates.
    pub fn update(&self, key: &DocumentKey, update: Update) -> Edit {
        let (rules, key) = (self.clone(), key.clone());
        Arc::new(move |before| {
            let now = (rules.clock)();
            let document = alive(&key, before, now)?;
            check_revision(document, update.expected)?;
            let data = (update.make)(document.data.as_str())?;
            rules.check(&data)?;
            check_time(update.expires_at.flatten(), now)?;
            let expires_at = update.expires_at.unwrap_or(document.expires_at);
            Ok(write(&key, before, Next { change: Change::Updated, data, expires_at }, now, None))
        })
    }

    /// Puts the data of an earlier revision back, in a deleted document too.
    pub fn restore(&self, key: &DocumentKey, expected: Option<u64>, data: RawObject) -> Edit {
        let (rules, key) = (self.clone(), key.clone());
        Arc::new(move |before| {
            let now = (rules.clock)();
            let document = before.ok_or_else(|| missing(&key))?;
            check_revision(document, expected)?;
            let data = data.as_str().to_owned();
            let next = match document.deleted {
                true => Next { change: Change::Created, data, expires_at: None },
                false => Next { change: Change::Updated, data, expires_at: document.expires_at },
            };
            Ok(write(&key, before, next, now, None))
        })
    }

    /// Deletes.
    pub fn delete(&self, key: &DocumentKey, expected: Option<u64>) -> Edit {
        let (rules, key) = (self.clone(), key.clone());
        Arc::new(move |before| {
            let now = (rules.clock)();
            let document = alive(&key, before, now)?;
            check_revision(document, expected)?;
            Ok(write(&key, before, gone(document), now, None))
        })
    }

    /// Deletes what is there, if its time has come.
    pub fn expire(&self, key: &DocumentKey) -> Edit {
        let (rules, key) = (self.clone(), key.clone());
        Arc::new(move |before| {
            let now = (rules.clock)();
            match before {
                Some(document) if !document.deleted && !document.is_alive(now) => {
                    Ok(write(&key, before, gone(document), now, None))
                }
                _ => Err(missing(&key)),
            }
        })
    }

    fn check(&self, data: &str) -> Result<(), Problem> {
        if data.len() > self.max_bytes {
            let rule = format!("a document holds at most {} bytes", self.max_bytes);
            return Err(Problem::too_large("data", rule));
        }
        if is_deeper(data, MAX_DEPTH) {
            let rule = format!("nests deeper than {MAX_DEPTH}");
            return Err(Problem::field_rule("TOO_DEEP", "data", rule));
        }
        Ok(())
    }
}

/// What a document becomes.
struct Next {
    change: Change,
    data: String,
    expires_at: Option<i64>,
}

/// A deleted document keeps what it said, so that an earlier revision can be put back.
fn gone(document: &Document) -> Next {
    Next { change: Change::Deleted, data: document.data.as_str().to_owned(), expires_at: document.expires_at }
}

fn write(
    key: &DocumentKey,
    before: Option<&Document>,
    next: Next,
    now: i64,
    event_id: Option<EventId>,
) -> Write {
    let revision = before.map_or(0, |document| document.revision) + 1;
    let at = before.map_or(now, |document| document.updated_at.max(now));
    let old = before.map_or("{}", |document| document.data.as_str());
    let (diff, undo) = differences(next.change, old, &next.data);
    let event_id = event_id.unwrap_or_else(EventId::generate);
    let event = event(key, &next, revision, &diff, event_id.clone(), at);
    Write {
        document: Document {
            key: key.clone(),
            revision,
            created_at: match before {
                Some(document) if next.change != Change::Created => document.created_at,
                _ => at,
            },
            updated_at: at,
            expires_at: next.expires_at,
            deleted: next.change == Change::Deleted,
            data: RawObject::from_trusted(next.data),
        },
        revision: Revision {
            revision,
            change: next.change,
            diff: RawObject::from_trusted(diff),
            undo: undo.into(),
            event_id,
            at,
        },
        event,
    }
}

/// The diff as it is told, and the way back to the data that the store held before. They differ where a document
/// comes or goes: told is all or nothing, while the store keeps the data of a deleted document.
fn differences(change: Change, old: &str, new: &str) -> (String, String) {
    match change {
        Change::Created => (compare("{}", new).diff, compare(old, new).undo),
        Change::Updated => {
            let found = compare(old, new);
            (found.diff, found.undo)
        }
        Change::Deleted => (compare(old, "{}").diff, "[]".to_owned()),
    }
}

fn event(key: &DocumentKey, next: &Next, revision: u64, diff: &str, id: EventId, at: i64) -> DocumentEvent {
    let (kind, operation) = match next.change {
        Change::Created => ("sync.created", "insert"),
        Change::Updated => ("sync.updated", "update"),
        Change::Deleted => ("sync.deleted", "delete"),
    };
    // Services and ids hold nothing that JSON would escape.
    let (service, document) = (key.service.as_str(), key.id.as_str());
    let revision_text = revision.to_string();
    let payload = [
        "{\"service\":\"",
        service,
        "\",\"documentId\":\"",
        document,
        "\",\"revision\":",
        &revision_text,
        ",\"data\":",
        &next.data,
        ",\"diff\":",
        diff,
        "}",
    ]
    .concat();
    let metadata = format!("{{\"timestamp\":{at},\"operation\":\"{operation}\",\"revision\":{revision}}}");
    DocumentEvent {
        id,
        topic: next.change.topic(&key.service),
        kind,
        payload: RawObject::from_trusted(payload),
        metadata: RawObject::from_trusted(metadata),
    }
}

/// The document, where it is there for others.
fn alive<'d>(key: &DocumentKey, before: Option<&'d Document>, now: i64) -> Result<&'d Document, Problem> {
    before.filter(|document| document.is_alive(now)).ok_or_else(|| missing(key))
}

/// No such document.
pub fn missing(key: &DocumentKey) -> Problem {
    Problem::not_found("document", key.id.as_str())
}

fn exists(key: &DocumentKey) -> Problem {
    Problem::new(ErrorKind::Conflict, "CONFLICT", format!("id: the document {} exists already", key.id))
}

fn check_revision(document: &Document, expected: Option<u64>) -> Result<(), Problem> {
    match expected {
        Some(expected) if expected != document.revision => {
            let current = document.revision;
            let message = format!("revision conflict: the document is at revision {current}, not {expected}");
            let problem = Problem::new(ErrorKind::Conflict, "REVISION_CONFLICT", message);
            Err(Problem { details: vec![Violation::new("currentRevision", current.to_string())], ..problem })
        }
        _ => Ok(()),
    }
}

/// The end of the year 9999, in Unix milliseconds: later times are no times to clients and stores.
const LATEST: i64 = 253_402_300_799_999;

fn check_time(expires_at: Option<i64>, now: i64) -> Result<(), Problem> {
    match expires_at {
        Some(at) if at <= now || at > LATEST => {
            let rule = "must lie in the future, in Unix milliseconds, and before the year 10000";
            Err(Problem::field("expiresAt", rule))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
