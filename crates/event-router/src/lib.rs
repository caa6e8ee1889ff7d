//! From draft to log, and from log to the connections that want it.
//!
//! Owns: normalization, the gate before the append, the subscription index, projection by return mode, encoding
//! once for each protocol, and the bounded outbox of each connection. Knows neither Postgres nor Redis nor a
//! transport: events enter by [`EventRouter::route`] and by the log's live reader, and leave by [`Outbox`].

mod frame;
mod hub;
mod index;
mod live_event;
mod message;
mod outbox;
mod outgoing;
pub mod own;
mod projection;
mod route;
mod shard;
mod topic;
mod writer;

pub use frame::text_frame;
pub use hub::{Hub, Subscribe};
pub use index::{Index, Subscription};
pub use live_event::{LiveEvent, Protocol};
pub use message::{
    Content, Letter, Listener, LiveMessage, Mail, PresenceAction, PresenceChange, Saying, Sender,
    TrafficReport, Wanted,
};
pub use outbox::{Attention, Flushed, Outbox, OutboxLimits, Wire};
pub use outgoing::{CloseReason, Control, Outgoing, ReplyTo, Subscribed};
pub use projection::project;
pub use route::{EventRouter, RouteReport, Routed, now_ms};
pub use writer::Writer;
