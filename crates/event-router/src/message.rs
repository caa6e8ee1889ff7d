//! A message on its way to connections: what is said in a channel, who is present, what is said to one connection, and
//! what those who watch the traffic are told.
//!
//! Owns how messages read between instances and on the wire. Each is encoded once for each protocol.

use crate::{
    frame::{head_length, text_frame},
    live_event::Protocol,
};
use bytes::Bytes;
use event_log::{Message, TopicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use shared_types::{AppId, Environment, Scope};
use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// As whom: the token's subject, or else the socket's id.
    pub client_id: String,
    /// The connection; none for a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_id: Option<String>,
}

/// Something said in a channel, or to one connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saying {
    /// Its id.
    pub id: String,
    /// Its name.
    pub event: String,
    /// What it says: any JSON value, without white space between its tokens.
    pub data: Box<RawValue>,
    /// Who says it.
    pub from: Sender,
    /// When, in Unix milliseconds.
    pub timestamp: i64,
    /// Whether the sender hears it too.
    #[serde(default)]
    pub echo: bool,
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceAction {
    /// It has come.
    Enter,
    /// Its data have changed, or it has come back over another connection.
    Update,
    /// It has gone.
    Leave,
}

/// A change among those present.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceChange {
    /// What became of the member.
    pub action: PresenceAction,
    /// The member: `{ clientId, socketId, data, joinedAt }`.
    pub member: Value,
    /// The document, where it is one's and not a channel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
}

/// What happened on one instance lately, for those who watch it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficReport {
    /// What happened: `{ type, timestamp, … }` each.
    pub entries: Vec<Value>,
    /// How much more happened than is listed.
    pub omitted: u64,
}

/// What an instance is told about one of its connections, or answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mail {
    /// Whose connections it is about.
    pub application: AppId,
    /// In which environment.
    pub environment: Environment,
    /// Which call it is, or answers.
    pub call: u64,
    /// The instance that waits for the answer.
    pub reply_to: String,
    /// What is asked or answered.
    pub letter: Letter,
}

impl Mail {
    /// Whose connections it is about.
    pub fn scope(&self) -> Scope {
        Scope::new(self.application.clone(), self.environment)
    }
}

/// Which connections are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Behind this socket's id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
    /// Those of this transport.
    pub transport: Option<String>,
    /// Those of this client.
    pub client_id: Option<String>,
    /// Those from this address.
    pub address: Option<String>,
    /// Those that joined this channel.
    pub channel: Option<String>,
    /// Those that subscribe to this topic.
    pub topic: Option<String>,
}

/// What stands in a mail.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Letter {
    /// Say this to the connection.
    Deliver {
        /// Its socket's id.
        to: String,
        /// What to say.
        saying: Saying,
    },
    /// Is this connection there?
    Find {
        /// Its socket's id.
        socket: String,
    },
    /// Which connections of the scope are there?
    List(Wanted),
    /// What is known of this connection?
    Describe {
        /// Its socket's id.
        socket: String,
    },
    /// Say what happens in the scope for a while, for somebody watches.
    Watch,
    /// The answer to `Deliver`, `Find` or `Watch`.
    Found(bool),
    /// The answer to `Describe`.
    Described(Option<Value>),
    /// The answer to `List`: how many there are that are wanted, and what is known of them, by socket.
    Listed {
        /// How many there are.
        count: u64,
        /// What is known of them.
        connections: Vec<Value>,
    },
}

/// What a message is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// Said in a channel.
    Said(Saying),
    /// Who is present.
    Presence(PresenceChange),
    /// Between instances.
    Mail(Mail),
    /// What happened, for those who watch.
    Traffic(TrafficReport),
}

impl Content {
    /// The message that says it under `key`.
    pub fn message(&self, key: TopicKey) -> Message {
        let body = serde_json::to_string(self).expect("a content is always JSON");
        Message { key, body: body.into() }
    }
}

/// A message with its encodings, shared by all its receivers.
#[derive(Debug)]
pub struct LiveMessage {
    /// Where it was said.
    pub key: TopicKey,
    /// What it is.
    pub content: Content,
    payload: OnceLock<Value>,
    raw: [OnceLock<Bytes>; PROTOCOLS],
    event: [OnceLock<Bytes>; PROTOCOLS],
}

const PROTOCOLS: usize = 3;

impl LiveMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// Where it is none of ours.
    pub fn read(message: &Message) -> Result<Self, serde_json::Error> {
        let content = serde_json::from_str(&message.body)?;
        Ok(Self::new(message.key.clone(), content))
    }

    /// A message that is said here.
    pub fn new(key: TopicKey, content: Content) -> Self {
        let (raw, event) = Default::default();
        Self { key, content, payload: OnceLock::new(), raw, event }
    }

    /// What was said, where something was.
    pub fn saying(&self) -> Option<&Saying> {
        match &self.content {
            Content::Said(saying) => Some(saying),
            Content::Presence(_) | Content::Traffic(_) => None,
            Content::Mail(mail) => match &mail.letter {
                Letter::Deliver { saying, .. } => Some(saying),
                _ => None,
            },
        }
    }

    /// The data as an event's payload, for filters: wrapped as `{ value }` where they are no object.
    pub fn payload(&self) -> &Value {
        self.payload.get_or_init(|| {
            let data = self.saying().map(|saying| saying.data.get()).unwrap_or("{}");
            match serde_json::from_str(data) {
                Ok(Value::Object(object)) => Value::Object(object),
                Ok(value) => json!({ "value": value }),
                Err(_) => Value::Null,
            }
        })
    }

    /// Its size as it counts towards limits, in bytes.
    pub fn size(&self) -> usize {
        let said = match &self.content {
            Content::Traffic(report) => report.entries.len() * 256,
            _ => self.saying().map_or(256, |saying| saying.data.get().len() + saying.event.len()),
        };
        256 + said
    }

    /// As a message: the text for a protocol.
    pub fn raw(&self, protocol: Protocol) -> Bytes {
        unframed(protocol, self.frame(protocol))
    }

    /// As a message: the WebSocket frame for a protocol.
    pub fn frame(&self, protocol: Protocol) -> Bytes {
        self.raw[protocol as usize].get_or_init(|| framed(protocol, self.raw_text(protocol))).clone()
    }

    /// As the event that subscribers of a topic of the channel's name receive: the text.
    pub fn event(&self, protocol: Protocol) -> Bytes {
        unframed(protocol, self.event_frame(protocol))
    }

    /// As [`LiveMessage::event`], as a WebSocket frame.
    pub fn event_frame(&self, protocol: Protocol) -> Bytes {
        self.event[protocol as usize]
            .get_or_init(|| framed(protocol, self.event_text(protocol, None)))
            .clone()
    }

    /// As [`LiveMessage::event`], naming the subscriptions that matched.
    pub fn event_for(&self, protocol: Protocol, subscriptions: &[shared_types::SubscriptionId]) -> Bytes {
        self.event_text(protocol, Some(subscriptions)).into()
    }

    fn raw_text(&self, protocol: Protocol) -> String {
        match &self.content {
            Content::Presence(change) => presence_text(protocol, &self.key, change),
            Content::Traffic(report) => traffic_text(report),
            _ => self.saying().map_or_else(String::new, |saying| {
                let channel = matches!(self.content, Content::Said(_)).then(|| self.key.topic.as_str());
                saying_text(protocol, channel, saying)
            }),
        }
    }

    fn event_text(
        &self,
        protocol: Protocol,
        subscriptions: Option<&[shared_types::SubscriptionId]>,
    ) -> String {
        let Some(saying) = self.saying() else { return String::new() };
        let topic = self.key.topic.as_str();
        let data = saying.data.get();
        let payload = if data.starts_with('{') { data.to_owned() } else { format!("{{\"value\":{data}}}") };
        let event = format!(
            "{{\"id\":{},\"topic\":\"{topic}\",\"source\":\"socket\",\"type\":{},\"payload\":{payload},\
             \"metadata\":{{\"timestamp\":{}}}}}",
            Value::from(saying.id.as_str()),
            Value::from(saying.event.as_str()),
            saying.timestamp
        );
        let names = subscriptions.map(|names| json!(names).to_string());
        match (protocol, names) {
            (Protocol::WebSocket, None) => {
                format!("{{\"type\":\"event\",\"topic\":\"{topic}\",\"data\":{event}}}")
            }
            (Protocol::WebSocket, Some(names)) => format!(
                "{{\"type\":\"event\",\"topic\":\"{topic}\",\"data\":{event},\"subscriptionIds\":{names}}}"
            ),
            (Protocol::SocketIo, None) => format!("42[\"event\",{event}]"),
            (Protocol::SocketIo, Some(names)) => format!("42[\"event\",{event},{names}]"),
            (Protocol::ServerSent, _) => format!("event: event\ndata: {event}\n\n"),
        }
    }
}

fn unframed(protocol: Protocol, frame: Bytes) -> Bytes {
    match protocol {
        Protocol::ServerSent => frame,
        _ => frame.slice(head_length(&frame)..),
    }
}

fn framed(protocol: Protocol, text: String) -> Bytes {
    match protocol {
        Protocol::ServerSent => text.into(),
        _ => text_frame(text.as_bytes()).into(),
    }
}

fn saying_text(protocol: Protocol, channel: Option<&str>, saying: &Saying) -> String {
    let (event, data) = (Value::from(saying.event.as_str()), saying.data.get());
    let channel = channel.map_or(String::new(), |channel| format!("\"channel\":\"{channel}\","));
    let (from, timestamp) = (json!(saying.from), saying.timestamp);
    match protocol {
        Protocol::WebSocket => format!(
            "{{\"type\":\"message\",\"event\":{event},{channel}\"data\":{data},\"from\":{from},\"timestamp\":{timestamp}}}"
        ),
        Protocol::SocketIo => {
            format!(
                "42[{event},{data},{{{channel}\"from\":{from},\"event\":{event},\"timestamp\":{timestamp}}}]"
            )
        }
        Protocol::ServerSent => format!(
            "event: message\ndata: {{{channel}\"event\":{event},\"data\":{data},\"from\":{from},\"timestamp\":{timestamp}}}\n\n"
        ),
    }
}

fn presence_text(protocol: Protocol, key: &TopicKey, change: &PresenceChange) -> String {
    let place = match &change.document {
        Some(document) => format!("\"document\":{document}"),
        None => format!("\"channel\":\"{}\"", key.topic),
    };
    let body = format!("{place},\"action\":{},\"member\":{}", json!(change.action), change.member);
    match protocol {
        Protocol::WebSocket => format!("{{\"type\":\"presence\",{body}}}"),
        Protocol::SocketIo => format!("42[\"presence\",{{{body}}}]"),
        Protocol::ServerSent => format!("event: presence\ndata: {{{body}}}\n\n"),
    }
}

/// Only told over server-sent events.
fn traffic_text(report: &TrafficReport) -> String {
    let mut out = String::new();
    for entry in &report.entries {
        let _ = write!(out, "event: traffic\ndata: {entry}\n\n");
    }
    if report.omitted > 0 {
        let _ = write!(out, "event: omitted\ndata: {{\"count\":{}}}\n\n", report.omitted);
    }
    out
}

/// A connection that hears what is said under a key.
#[derive(Clone)]
pub struct Listener {
    /// Its socket's id: it does not hear itself.
    pub socket_id: Arc<str>,
    /// Where what it hears goes.
    pub outbox: Arc<crate::Outbox>,
    /// Whether it hears what is said, and not only who is present.
    pub hears_sayings: bool,
}
