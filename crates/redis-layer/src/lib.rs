//! Redis: the event log that any number of backends and workers share.
//!
//! Owns connections, keys, scripts, and the decision whether a server still has everything that was acknowledged.
//! Knows nothing of HTTP or of who appends. Events enter and leave through the port of `event-log`; the witness of
//! the generation is a row in PostgreSQL.

mod condition;
mod connection;
mod error;
pub mod event_log;
mod generation;
mod keys;
mod presence;
mod scripts;
mod settings;

pub use error::RedisError;
pub use presence::RedisPresence;
pub use settings::{HistoryLimit, RedisSettings};
