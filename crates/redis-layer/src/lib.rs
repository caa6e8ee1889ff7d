//! Redis: the event log and the hot documents that any number of backends and workers share.
//!
//! Owns connections, keys, scripts, and the decision whether a server still has everything that was acknowledged.
//! Knows nothing of HTTP or of who appends. Events and documents enter and leave through the ports
//! `event-log` and `document-store`; the witness of the generation is a row in PostgreSQL.

mod condition;
mod connection;
mod counters;
mod documents;
mod error;
pub mod event_log;
mod generation;
mod keys;
mod leader;
mod presence;
mod scripts;
mod settings;
mod subscriptions;

pub use counters::{Count, RedisCounters, Total};
pub use documents::RedisDocumentStore;
pub use error::RedisError;
pub use leader::RedisLeader;
pub use presence::RedisPresence;
pub use settings::{HistoryLimit, RedisSettings};
