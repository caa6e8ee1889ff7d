//! Clients of every transport, written against the protocol and nothing else.

pub mod plain;
pub mod polling;
pub mod socketio;
pub mod sse;
mod subscriber;

pub use subscriber::{Link, Said, Subscriber};

use crate::harness::Instance;
use serde_json::{Value, json};

/// What a client wants of a topic.
#[derive(Clone)]
pub struct Wish {
    pub topic: String,
    pub filter: Value,
    pub since: Option<Place>,
}

impl Wish {
    /// Everything from now on.
    pub fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), filter: json!({}), since: None }
    }

    /// Only what passes.
    pub fn filtered(self, filter: Value) -> Self {
        Self { filter, ..self }
    }

    /// Everything behind a place.
    pub fn since(self, place: Place) -> Self {
        Self { since: Some(place), ..self }
    }
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Position { epoch: String, offset: u64 },
    Cursor(String),
}

/// How a client was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, where the refusal is an HTTP answer.
    pub status: Option<u16>,
    pub code: String,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A WebSocket was closed with a code.
    Closed(u16),
    /// Socket.IO's server disconnected, after an `error` of this code.
    Disconnected(Option<String>),
    /// The transport ended without a disconnect by Socket.IO's server: its clients come back by themselves.
    TransportClosed,
    /// The stream ended.
    Eof,
}

/// Why a server ends connections.
#[derive(Clone, Copy, Debug)]
pub enum Why {
    Stopping,
    Slow,
    Revoked,
    Expired,
}

/// One connection with one subscription, over any transport.
pub trait Client: Sized + Send {
    /// Connects and subscribes, over all pages of the recovery where the transport has them in its answers.
    async fn open(instance: &Instance, token: Option<&str>, wish: Wish) -> Result<Self, Refusal>;

    /// Whether the first answer said that everything since the given place follows.
    fn recovered(&self) -> bool;

    /// The next event.
    async fn next(&mut self) -> Result<Value, End>;

    /// Whence another connection goes on.
    fn place(&self) -> Place;

    /// The place of a position in a topic, as this transport's clients give it.
    fn place_of(topic: &str, epoch: &str, offset: u64) -> Place;

    /// The documented end.
    fn end(why: Why) -> End;

    /// The documented refusal of a token, and of a missing right.
    fn refused(status: u16, code: &str) -> Refusal;
}

/// The number in an event that the harness published.
pub fn number(event: &Value) -> u64 {
    event["payload"]["n"].as_u64().unwrap_or_else(|| panic!("a numbered event: {event}"))
}
