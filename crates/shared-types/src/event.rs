//! The event: what a producer hands in, and what a receiver gets.

use crate::{error::Problem, ids::EventId, json::RawObject, position::Position, topic::TopicName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{fmt, str::FromStr, sync::Arc};

/// Which of the three services an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A row change or an outbox row of the customer's database.
    Database,
    /// A document.
    Sync,
    /// A published event or a channel message.
    Socket,
}

impl Source {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Sync => "sync",
            Self::Socket => "socket",
        }
    }
}

impl FromStr for Source {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        [Self::Database, Self::Sync, Self::Socket]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| Problem::field("source", "must be database, sync or socket"))
    }
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A removed row.
    Delete,
}

impl Operation {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a document's change a subscriber wants. Events that are not from sync are the same in all modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReturnMode {
    /// `payload.data`, without `payload.diff`.
    #[default]
    Full,
    /// `payload.diff`, without `payload.data`.
    Diff,
    /// Both.
    Both,
}

impl ReturnMode {
    /// Its documented name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
            Self::Both => "both",
        }
    }
}

impl FromStr for ReturnMode {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        match text {
            "full" => Ok(Self::Full),
            "diff" => Ok(Self::Diff),
            "both" => Ok(Self::Both),
            _ => Err(Problem::field("returnMode", "must be full, diff or both")),
        }
    }
}

/// An event as a producer hands it in, before it has an id and a position.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Where it goes.
    pub topic: TopicName,
    /// Which service it comes from.
    pub source: Source,
    /// `database.update`, `message`, the publisher's own.
    pub kind: Arc<str>,
    /// What it says.
    pub payload: RawObject,
    /// Its id, where the producer has one.
    pub id: Option<EventId>,
    /// Unix milliseconds; the time of routing where absent.
    pub timestamp_ms: Option<i64>,
    /// Further members of `metadata`, each `"name":value`, joined by commas, or empty.
    pub extra_metadata: String,
}

/// An event as it is read back from JSON: what clients and tests parse.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EventEnvelope {
    /// `evt_…`, or the publisher's.
    pub id: String,
    /// The topic.
    pub topic: String,
    /// The service.
    pub source: Source,
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The payload as written.
    pub payload: Box<RawValue>,
    /// Timestamp, position and the rest.
    pub metadata: EventMetadata,
}

/// `metadata` of an event.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EventMetadata {
    /// Unix milliseconds.
    pub timestamp: i64,
    /// The table of a database event, with its schema where that is not `public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The operation of a database event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// The revision of a sync event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Position in the topic's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Epoch of that position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Arc<str>>,
    /// What else the producer said.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl EventMetadata {
    /// The position, where the event has one.
    pub fn position(&self) -> Option<Position> {
        Some(Position { epoch: self.epoch.clone()?, offset: self.offset? })
    }
}
