//! The sources of the drill: which topic each has, and how an event says which piece of work it is of.
//!
//! Pure. A piece of work (a row change, a row of the outbox, a write to a document, a publish) has a business key
//! that nobody but the drill knows, so that it is recognized whatever ids and places the platform gives it.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

/// Where events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Row changes, by change data capture.
    Database,
    /// Rows of the target's outbox.
    Outbox,
    /// Writes to documents.
    Sync,
    /// Events that clients publish.
    Socket,
}

/// The service of the documents.
pub const SERVICE: &str = "drill";

impl Source {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Database, Self::Outbox, Self::Sync, Self::Socket];

    /// Its name in the account.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Outbox => "outbox",
            Self::Sync => "sync",
            Self::Socket => "socket",
        }
    }

    /// The topic of its events.
    pub const fn topic(self) -> &'static str {
        match self {
            Self::Database => "drill.row",
            Self::Outbox => "drill.outbox",
            Self::Sync => "sync.drill.updated",
            Self::Socket => "drill.message",
        }
    }

    /// Of which piece of work an event with this payload is.
    ///
    /// # Errors
    /// The payload is not what the drill wrote.
    pub fn mark(self, payload: &Value) -> Result<Mark> {
        let mark = match self {
            Self::Database | Self::Outbox => {
                number(payload, "/key").map(|key| Mark { key, lane: 0, ordinal: key })
            }
            Self::Sync => number(payload, "/data/key")
                .zip(number(payload, "/revision"))
                .zip(lane(payload))
                .map(|((key, revision), lane)| Mark { key, lane, ordinal: revision }),
            Self::Socket => number(payload, "/key")
                .zip(number(payload, "/publisher"))
                .zip(number(payload, "/turn"))
                .map(|((key, lane), ordinal)| Mark { key, lane, ordinal }),
        };
        mark.with_context(|| format!("an event of {} that the drill did not write: {payload}", self.name()))
    }
}

/// The document's number, from its id.
fn lane(payload: &Value) -> Option<u64> {
    payload.pointer("/documentId")?.as_str()?.strip_prefix('d')?.parse().ok()
}

fn number(payload: &Value, pointer: &str) -> Option<u64> {
    payload.pointer(pointer)?.as_u64()
}

/// What an event says of itself: its piece of work, and what it must come after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The business key, of its source.
    pub key: u64,
    /// The events of one lane have an order of their own: a document's revisions, a publisher's turns.
    pub lane: u64,
    /// Where in that order.
    pub ordinal: u64,
}

/// An event, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// The platform's or the publisher's id.
    pub id: String,
    /// What it says.
    pub payload: Value,
    /// Where it stands.
    pub metadata: Place,
}

/// Where an event stands.
#[derive(Debug, Deserialize)]
pub struct Place {
    /// The history that the offset counts in.
    pub epoch: String,
    /// Events so far.
    pub offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_source_s_events_are_marked() {
        let mark = |key, lane, ordinal| Mark { key, lane, ordinal };
        assert_eq!(Source::Database.mark(&json!({ "key": 7, "note": "x" })).unwrap(), mark(7, 0, 7));
        let document = json!({ "service": "drill", "documentId": "d3", "revision": 9, "data": { "key": 4 } });
        assert_eq!(Source::Sync.mark(&document).unwrap(), mark(4, 3, 9));
        let message = json!({ "key": 5, "publisher": 2, "turn": 3 });
        assert_eq!(Source::Socket.mark(&message).unwrap(), mark(5, 2, 3));
        assert!(Source::Sync.mark(&json!({ "key": 5 })).is_err());
    }
}
