//! Edits for the contract: small counters, so that what was lost shows as a number.

use crate::{Change, Document, DocumentEvent, DocumentKey, Edit, Revision, Write};
use shared_types::{EventId, Problem, RawObject};
use std::sync::Arc;

/// The number in `{"n":…}`.
pub(super) fn number(document: &Document) -> u64 {
    let data: serde_json::Value = serde_json::from_str(document.data.as_str()).expect("stored data is JSON");
    data["n"].as_u64().expect("a counter")
}

fn write(
    key: &DocumentKey,
    before: Option<&Document>,
    change: Change,
    data: &str,
    expires_at: Option<i64>,
) -> Write {
    let revision = before.map_or(0, |document| document.revision) + 1;
    let at = 1_700_000_000_000 + revision as i64;
    let created_at = before.filter(|document| !document.deleted).map_or(at, |document| document.created_at);
    let id = EventId::generate();
    let payload = format!(
        "{{\"service\":\"{}\",\"documentId\":\"{}\",\"revision\":{revision},\"data\":{data}}}",
        key.service, key.id
    );
    Write {
        document: Document {
            key: key.clone(),
            revision,
            data: RawObject::from_trusted(data),
            created_at,
            updated_at: at,
            expires_at,
            deleted: change == Change::Deleted,
        },
        revision: Revision {
            revision,
            change,
            diff: RawObject::from_trusted(format!("{{\"to\":{revision}}}")),
            undo: format!("[{revision}]").into(),
            event_id: id.clone(),
            at,
        },
        event: DocumentEvent {
            id,
            topic: change.topic(&key.service),
            kind: match change {
                Change::Created => "sync.created",
                Change::Updated => "sync.updated",
                Change::Deleted => "sync.deleted",
            },
            payload: RawObject::from_trusted(payload),
            metadata: RawObject::from_trusted(format!("{{\"timestamp\":{at},\"revision\":{revision}}}")),
        },
    }
}

fn missing() -> Problem {
    Problem::not_found("document", "of the contract")
}

/// Creates a counter; refuses where there is one.
pub fn created(key: &DocumentKey) -> Edit {
    sized(key, "{\"n\":0}".to_owned())
}

/// Creates a document that says `data`; refuses where there is one.
pub fn sized(key: &DocumentKey, data: String) -> Edit {
    let key = key.clone();
    Arc::new(move |before| match before {
        Some(document) if !document.deleted => Err(Problem::invalid("CONFLICT", "is there")),
        _ => Ok(write(&key, before, Change::Created, &data, None)),
    })
}

/// Creates a counter that is to be deleted at `at`.
pub fn expiring(key: &DocumentKey, at: i64) -> Edit {
    let key = key.clone();
    Arc::new(move |before| Ok(write(&key, before, Change::Created, "{\"n\":0}", Some(at))))
}

/// Adds 1; refuses where there is no counter, or where it is at another revision than `expected`.
pub fn counted(key: &DocumentKey, expected: Option<u64>) -> Edit {
    let key = key.clone();
    Arc::new(move |before| {
        let document = before.filter(|document| !document.deleted).ok_or_else(missing)?;
        if expected.is_some_and(|expected| expected != document.revision) {
            return Err(Problem::invalid("REVISION_CONFLICT", document.revision.to_string()));
        }
        let data = format!("{{\"n\":{}}}", number(document) + 1);
        Ok(write(&key, before, Change::Updated, &data, document.expires_at))
    })
}

/// Deletes; refuses where there is nothing.
pub fn deleted(key: &DocumentKey) -> Edit {
    let key = key.clone();
    Arc::new(move |before| {
        let document = before.filter(|document| !document.deleted).ok_or_else(missing)?;
        Ok(write(&key, before, Change::Deleted, document.data.as_str(), document.expires_at))
    })
}
