//! The port through which every producer appends and everything else reads.
//!
//! Owns: the shape of entries, positions and readers, and the contract suite (module `contract`, feature `contract`)
//! that every implementation passes. Knows no database and no broker. Events enter by [`EventLog::append`] and
//! leave by history, live readers and side-effect readers.

mod backlog;
mod entry;
mod error;
mod message;
mod port;

#[cfg(feature = "contract")]
pub mod contract;

pub use backlog::{ALERT_SHARE, BacklogNews, BacklogWatch};
pub use entry::{Entry, Identity, Outcome, SourcePosition, StoredEvent, TopicKey, partition_of};
pub use error::LogError;
pub use message::Message;
pub use port::{
    Condition, EventLog, HistoryPage, HistoryQuery, LiveReader, LiveWatch, PageLimit, Reach, SideEffect,
    SideEffectReader, Start, WAITING_MESSAGES, WAITING_RENEWED,
};
