//! An event on its way to connections: encoded once for each protocol and return mode, by whoever writes it first.

use crate::{
    frame::{head_length, text_frame},
    projection::{effective, project},
};
use bytes::Bytes;
use event_log::StoredEvent;
use serde_json::Value;
use shared_types::{ReturnMode, SubscriptionId};
use std::sync::{Arc, OnceLock};

/// How a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Plain WebSocket: one JSON text frame.
    WebSocket,
    /// Socket.IO: an `event` packet.
    SocketIo,
    /// Server-sent events: the lines behind the `id` line.
    ServerSent,
}

const PROTOCOLS: usize = 3;
const MODES: usize = 3;

/// An event with its encodings, shared by all its receivers.
#[derive(Debug)]
pub struct LiveEvent {
    event: Arc<StoredEvent>,
    payload: OnceLock<Value>,
    encoded: [OnceLock<Bytes>; PROTOCOLS * MODES],
}

impl LiveEvent {
    /// An event that nobody has encoded yet.
    pub fn new(event: Arc<StoredEvent>) -> Self {
        Self { event, payload: OnceLock::new(), encoded: Default::default() }
    }

    /// The event itself.
    pub fn event(&self) -> &StoredEvent {
        &self.event
    }

    /// The payload, parsed once, for filters.
    pub fn payload(&self) -> &Value {
        // What is stored was checked on its way in; should it not parse, no filter matches it.
        self.payload.get_or_init(|| serde_json::from_str(self.event.payload.as_str()).unwrap_or_default())
    }

    /// The text for `protocol` and `mode`, shared by all who ask alike.
    pub fn encoded(&self, protocol: Protocol, mode: ReturnMode) -> Bytes {
        let stored = self.stored(protocol, mode);
        match protocol {
            Protocol::ServerSent => stored.clone(),
            _ => stored.slice(head_length(stored)..),
        }
    }

    /// The same as a WebSocket frame.
    pub fn frame(&self, protocol: Protocol, mode: ReturnMode) -> Bytes {
        self.stored(protocol, mode).clone()
    }

    /// The text for a connection with several subscriptions on the topic, naming those that matched.
    pub fn encoded_for(
        &self,
        protocol: Protocol,
        mode: ReturnMode,
        subscriptions: &[SubscriptionId],
    ) -> Bytes {
        let shared = self.encoded(protocol, mode);
        let names = serde_json::to_string(subscriptions).unwrap_or_default();
        let (cut, tail) = match protocol {
            Protocol::WebSocket => (1, format!(",\"subscriptionIds\":{names}}}")),
            Protocol::SocketIo => (1, format!(",{names}]")),
            Protocol::ServerSent => return shared,
        };
        let mut out = Vec::with_capacity(shared.len() + tail.len());
        out.extend_from_slice(&shared[..shared.len() - cut]);
        out.extend_from_slice(tail.as_bytes());
        out.into()
    }

    /// Frames for the protocols over WebSocket, text for the others.
    fn stored(&self, protocol: Protocol, mode: ReturnMode) -> &Bytes {
        let mode = effective(&self.event, mode);
        let slot = protocol as usize * MODES + mode as usize;
        self.encoded[slot].get_or_init(|| {
            let text = self.encode(protocol, mode);
            match protocol {
                Protocol::ServerSent => text.into(),
                _ => text_frame(text.as_bytes()).into(),
            }
        })
    }

    fn encode(&self, protocol: Protocol, mode: ReturnMode) -> String {
        let payload = project(&self.event, mode);
        let mut out = String::with_capacity(self.event.size() + 160);
        match protocol {
            Protocol::WebSocket => {
                // Topic names hold nothing that JSON would escape.
                out.push_str("{\"type\":\"event\",\"topic\":\"");
                out.push_str(self.event.key.topic.as_str());
                out.push_str("\",\"data\":");
                self.event.write_json(&mut out, Some(&payload));
                out.push('}');
            }
            Protocol::SocketIo => {
                out.push_str("42[\"event\",");
                self.event.write_json(&mut out, Some(&payload));
                out.push(']');
            }
            Protocol::ServerSent => {
                out.push_str("event: event\ndata: ");
                self.event.write_json(&mut out, Some(&payload));
                out.push_str("\n\n");
            }
        }
        out
    }
}
