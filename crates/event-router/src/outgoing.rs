//! What is written to a connection, before any transport has given it a form.

use crate::{live_event::LiveEvent, message::LiveMessage};
use shared_types::{Position, Problem, ReturnMode, SubscriptionId, TopicName};
use std::sync::Arc;

/// Why the server ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client went away or said goodbye.
    Gone,
    /// It could not keep up.
    SlowConsumer,
    /// The server is stopping: reconnect, elsewhere.
    GoingAway,
    /// Its token expired and was not renewed.
    TokenExpired,
    /// Its token was revoked.
    Revoked,
    /// It broke the protocol.
    Policy(String),
    /// It sent more than the rate allows, for too long.
    TooManyMessages,
}

/// To which request a reply belongs, in the connection's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// The client asked for no reply.
    Nothing,
    /// The client's `ref`, as JSON text.
    Ref(Box<str>),
    /// The number of a Socket.IO acknowledgement.
    Ack(u64),
}

/// The answer to a subscribe.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// The subscription.
    pub id: SubscriptionId,
    /// Its topic.
    pub topic: TopicName,
    /// The position behind which live delivery begins, or from which to ask for more.
    pub position: Position,
    /// Whether everything since the given position is in `events`, or was before.
    pub recovered: bool,
    /// The recovered events, which passed the filter.
    pub events: Vec<Arc<LiveEvent>>,
    /// How they are projected.
    pub mode: ReturnMode,
    /// Whether there are more, so that delivery is not live yet.
    pub more: bool,
}

/// What is said to one connection only.
#[derive(Clone, Debug)]
pub enum Control {
    /// A subscription is live, or a page of its recovery.
    Subscribed(Subscribed),
    /// A request was done; the members of the result as JSON text without braces, or empty.
    Done(String),
    /// A request failed, or something else did.
    Failed(Problem),
    /// The server ended a subscription.
    Ended {
        /// The subscription.
        id: SubscriptionId,
        /// Its topic.
        topic: TopicName,
        /// Why.
        problem: Problem,
    },
    /// The server ended a membership or presence.
    Left {
        /// Where: `{ "channel": … }` or `{ "document": { … } }`.
        place: serde_json::Value,
        /// Why.
        problem: Problem,
    },
    /// Where a subscription stands.
    Position {
        /// The subscription.
        id: SubscriptionId,
        /// Its topic.
        topic: TopicName,
        /// The topic's position.
        position: Position,
        /// Whether events were lost for good: reload state.
        gap: bool,
    },
    /// The answer to a ping.
    Pong,
    /// The connection is let in.
    Welcome {
        /// Its id, by which others reach it.
        socket_id: String,
        /// Whom it belongs to.
        client_id: String,
        /// When its token expires, in Unix milliseconds.
        expires_at_ms: i64,
    },
    /// The connection is not let in.
    Refused(Problem),
    /// It asked for a namespace, by this name, that does not exist.
    NoNamespace(String, Problem),
}

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An event.
    Event {
        /// The event, shared.
        event: Arc<LiveEvent>,
        /// How it is projected.
        mode: ReturnMode,
        /// The subscriptions that matched, where the connection has several on the topic.
        subscriptions: Option<Box<[SubscriptionId]>>,
    },
    /// A message as it was said, or who is present.
    Message(Arc<LiveMessage>),
    /// A channel's message, for those who subscribed to a topic of its name.
    MessageEvent {
        /// The message, shared.
        message: Arc<LiveMessage>,
        /// The subscriptions that matched, where the connection has several on the topic.
        subscriptions: Option<Box<[SubscriptionId]>>,
    },
    /// Something for this connection only.
    Control(ReplyTo, Box<Control>),
    /// A packet of the transport itself, as it is.
    Packet(&'static str),
}

impl Outgoing {
    /// Its size as it counts towards the backlog, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Event { event, .. } => event.event().size(),
            Self::Control(_, control) => match &**control {
                Control::Subscribed(subscribed) => {
                    256 + subscribed.events.iter().map(|event| event.event().size()).sum::<usize>()
                }
                Control::Done(text) => 64 + text.len(),
                _ => 256,
            },
            Self::Message(message) | Self::MessageEvent { message, .. } => message.size(),
            Self::Packet(text) => text.len(),
        }
    }
}
