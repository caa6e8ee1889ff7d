//! Names of services and documents.

use shared_types::{
    Problem,
    ids::{derived_id, new_id},
};
use std::{fmt, sync::Arc};

/// The longest service name, in bytes: its topics must fit the limit of names.
const MAX_SERVICE_BYTES: usize = 100;
/// The longest id of a document, in bytes.
const MAX_ID_BYTES: usize = 128;

/// A namespace of documents: `^[a-z][a-z0-9_-]{0,99}$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// A name as a client gives it, in the field `path`.
    ///
    /// # Errors
    /// `VALIDATION_FAILED`, or `LIMIT_EXCEEDED` (413) where it is too long.
    pub fn parse(path: &str, text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_SERVICE_BYTES {
            return Err(too_long(path, MAX_SERVICE_BYTES));
        }
        let fits = text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !fits {
            return Err(Problem::field(path, "must match ^[a-z][a-z0-9_-]*$"));
        }
        Ok(Self(text.into()))
    }

    /// One that was read from where we stored it.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A document's id within its service: `doc_…`, or the client's own: `^[A-Za-z0-9._:-]{1,128}$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentId(Arc<str>);

impl DocumentId {
    /// A new one, later in order than all before it.
    pub fn generate() -> Self {
        Self(new_id("doc").into())
    }

    /// One that is the same whenever `parts` are the same.
    pub fn derived(timestamp_ms: u64, parts: &[&[u8]]) -> Self {
        Self(derived_id("doc", timestamp_ms, parts).into())
    }

    /// An id as a client gives it. `.` and `..` are refused, because clients take them for steps in a path.
    ///
    /// # Errors
    /// `INVALID_ID`, or `LIMIT_EXCEEDED` (413) where it is too long.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_ID_BYTES {
            return Err(too_long("id", MAX_ID_BYTES));
        }
        let fits = !matches!(text, "" | "." | "..")
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if !fits {
            let rule = "must match ^[A-Za-z0-9._:-]{1,128}$ and be neither . nor ..";
            return Err(Problem::field_rule("INVALID_ID", "id", rule));
        }
        Ok(Self(text.into()))
    }

    /// One that was read from where we stored it.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn too_long(path: &str, bytes: usize) -> Problem {
    Problem::too_large(path, format!("at most {bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::ErrorKind;

    #[test]
    fn services_follow_the_documented_rule() {
        for good in ["session", "order-tracking", "chat_rooms", "a1"] {
            assert!(ServiceName::parse("service", good).is_ok(), "{good}");
        }
        for bad in ["", "Session", "123abc", "my service", "a.b", "-a", "ä"] {
            assert_eq!(ServiceName::parse("name", bad).expect_err(bad).details[0].path, "name");
        }
        assert_eq!(ServiceName::parse("name", &"a".repeat(101)).expect_err("long").kind, ErrorKind::TooLarge);
    }

    #[test]
    fn ids_may_be_the_clients_own() {
        for good in ["my-custom-id", "user:42", "a.b", "...", DocumentId::generate().as_str()] {
            assert!(DocumentId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert_eq!(DocumentId::parse(bad).expect_err(bad).code, "INVALID_ID");
        }
        assert_eq!(DocumentId::parse(&"a".repeat(129)).expect_err("long").kind, ErrorKind::TooLarge);
    }
}
