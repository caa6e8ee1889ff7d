//! What is appended and what is read back.

use shared_types::{EventId, MappingId, Position, RawObject, Scope, Source, TopicName};
use std::{fmt::Write as _, sync::Arc};

/// A topic of a scope: what a position belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicKey {
    /// To whom it belongs.
    pub scope: Scope,
    /// Its name.
    pub topic: TopicName,
}

impl TopicKey {
    /// The topic `topic` of `scope`.
    pub fn new(scope: &Scope, topic: &TopicName) -> Self {
        Self { scope: scope.clone(), topic: topic.clone() }
    }
}

/// A place in a producer's own sequence: commit position, place within the transaction, mapping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourcePosition {
    /// The commit's log sequence number.
    pub lsn: u64,
    /// The change's number within its transaction.
    pub ordinal: u64,
    /// Which mapping made the event, of those that one change fires.
    pub mapping: MappingId,
}

/// How a repeated append of the same event is recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// It is appended once by construction; nothing is remembered.
    Unique,
    /// By (topic, producer, event id), remembered for 24 h. Other content under the same id is a conflict.
    Keyed {
        /// `client:<sub>`, `outbox:…`, `sync`.
        producer: Arc<str>,
    },
    /// By a position that only grows within `source`. A lower `term` is refused: another leader has taken over.
    Positioned {
        /// Which replication source: system identifier, timeline and slot creation.
        source: Arc<str>,
        /// The leader's term, which grows with every hand-over.
        term: u64,
        /// Where in the source.
        at: SourcePosition,
    },
}

/// An event to append: normalized, through the gate, with its id.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Whose topic.
    pub key: TopicKey,
    /// Its id.
    pub id: EventId,
    /// The service.
    pub source: Source,
    /// The type.
    pub kind: Arc<str>,
    /// The payload.
    pub payload: RawObject,
    /// `metadata` without the position; holds at least `timestamp`.
    pub metadata: RawObject,
    /// How a repeat is recognized.
    pub identity: Identity,
}

impl Entry {
    /// Its size as it counts towards limits, in bytes.
    pub fn size(&self) -> usize {
        self.payload.as_str().len() + self.metadata.as_str().len() + self.kind.len() + 128
    }
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Appended at this position.
    Appended(Position),
    /// It had been appended before, at this position where that is still known; nothing was appended now.
    Repeated(Option<Position>),
}

impl Outcome {
    /// The position, where it is known.
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::Appended(position) => Some(position),
            Self::Repeated(position) => position.as_ref(),
        }
    }
}

/// An event as it stands in the log.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Whose topic.
    pub key: TopicKey,
    /// Its place in the topic.
    pub position: Position,
    /// Its id.
    pub id: EventId,
    /// The service.
    pub source: Source,
    /// The type.
    pub kind: Arc<str>,
    /// The payload.
    pub payload: RawObject,
    /// `metadata` without the position.
    pub metadata: RawObject,
}

impl StoredEvent {
    /// The event with its place.
    pub fn new(entry: &Entry, position: Position) -> Self {
        Self {
            key: entry.key.clone(),
            position,
            id: entry.id.clone(),
            source: entry.source,
            kind: entry.kind.clone(),
            payload: entry.payload.clone(),
            metadata: entry.metadata.clone(),
        }
    }

    /// Its size as it counts towards limits, in bytes.
    pub fn size(&self) -> usize {
        self.payload.as_str().len() + self.metadata.as_str().len() + self.kind.len() + 128
    }

    /// Writes the `RealtimeEvent` with `payload` in place of its own (a projection), or its own.
    pub fn write_json(&self, out: &mut String, payload: Option<&str>) {
        out.push_str("{\"id\":");
        push_text(out, self.id.as_str());
        out.push_str(",\"topic\":");
        push_text(out, self.key.topic.as_str());
        out.push_str(",\"source\":\"");
        out.push_str(self.source.as_str());
        out.push_str("\",\"type\":");
        push_text(out, &self.kind);
        out.push_str(",\"payload\":");
        out.push_str(payload.unwrap_or(self.payload.as_str()));
        out.push_str(",\"metadata\":");
        // Metadata always holds a timestamp, so that a comma is due before the position.
        out.push_str(self.metadata.as_str().strip_suffix('}').unwrap_or("{\"timestamp\":0"));
        let _ = write!(out, ",\"offset\":{},\"epoch\":", self.position.offset);
        push_text(out, &self.position.epoch);
        out.push_str("}}");
    }

    /// The whole `RealtimeEvent` as JSON.
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(self.size() + 128);
        self.write_json(&mut out, None);
        out
    }
}

/// Appends `text` as a JSON string.
fn push_text(out: &mut String, text: &str) {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// The partition of a topic among `count`: the same in every process and implementation.
///
/// All `sync.{service}.*` topics of a scope share one partition, so that one atomic step reaches a document and
/// its events.
pub fn partition_of(key: &TopicKey, count: u16) -> u16 {
    let topic = key.topic.as_str();
    let name = match topic.strip_prefix("sync.").and_then(|rest| rest.rsplit_once('.')) {
        Some((service, _)) => &topic[.."sync.".len() + service.len()],
        None => topic,
    };
    let parts = [key.scope.application().as_str(), key.scope.environment().as_str(), name];
    // FNV-1a: stable over versions and processes, unlike the standard library's hasher.
    let hash = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    (hash % u64::from(count)) as u16
}
