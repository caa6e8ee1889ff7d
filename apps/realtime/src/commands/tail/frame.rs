//! What the server says on a plain WebSocket, as far as following a topic needs it.
//!
//! Events stay the server's own text, so that what is printed as JSON is what was sent.

use serde::Deserialize;
use serde_json::value::RawValue;
use shared_types::Position;

/// Any frame; the members that a type does not have are absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frame {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// An event.
    pub data: Option<Box<RawValue>>,
    /// The events of a recovery.
    #[serde(default)]
    pub events: Vec<Box<RawValue>>,
    /// A position's epoch.
    pub epoch: Option<String>,
    /// A position's offset.
    pub offset: Option<u64>,
    /// Whether `since` could be recovered.
    #[serde(default)]
    pub recovered: bool,
    /// Whether there is another page.
    #[serde(default)]
    pub more: bool,
    /// Whether events were lost.
    #[serde(default)]
    pub gap: bool,
    /// The subscription.
    pub subscription_id: Option<String>,
    /// The class of an error.
    pub error: Option<String>,
    /// An error's stable code.
    pub code: Option<String>,
    /// An error, for a person.
    pub message: Option<String>,
}

impl Frame {
    /// The position in it.
    pub fn position(&self) -> Option<Position> {
        Some(Position::new(self.epoch.as_deref()?, self.offset?))
    }
}

/// An event, as far as a line shows it.
#[derive(Debug, Deserialize)]
pub struct Event<'a> {
    /// Its topic.
    pub topic: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// When and where.
    pub metadata: Metadata,
}

/// When an event happened and where it stands.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Unix milliseconds.
    pub timestamp: i64,
    /// Its position's epoch.
    pub epoch: Option<String>,
    /// Its position's offset.
    pub offset: Option<u64>,
}

impl Event<'_> {
    /// Where it stands; a message of a channel stands nowhere.
    pub fn position(&self) -> Option<Position> {
        Some(Position::new(self.metadata.epoch.as_deref()?, self.metadata.offset?))
    }
}

/// What an error object says; nothing where it is none.
pub fn refusal(body: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    struct Said {
        message: Option<String>,
        code: Option<String>,
    }
    let said: Said = serde_json::from_slice(body).unwrap_or_default();
    match (said.message, said.code) {
        (Some(message), Some(code)) => Some(format!("{message} ({code})")),
        _ => None,
    }
}
