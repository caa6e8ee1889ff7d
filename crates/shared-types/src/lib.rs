//! What travels: identifiers, scope, topics, events, filters, positions, mappings and error kinds.
//!
//! Everything here is plain data with its rules. This crate knows no I/O, no database and no transport; every
//! other crate may use it.

pub mod error;
pub mod event;
pub mod filter;
pub mod ids;
pub mod json;
pub mod mapping;
pub mod position;
pub mod rights;
pub mod scope;
pub mod topic;

pub use error::{ErrorKind, Problem, Violation};
pub use event::{Draft, EventEnvelope, Operation, ReturnMode, Source};
pub use filter::Filter;
pub use ids::{AppId, EventId, KeyId, MappingId, SubscriptionId, UserId};
pub use json::RawObject;
pub use position::Position;
pub use scope::{Environment, Scope};
pub use topic::TopicName;
