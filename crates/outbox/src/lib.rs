//! The transactional outbox: rows that an application writes together with its own become events.
//!
//! Owns every statement on `event_outbox`, in the platform's database and in the targets', the claiming of rows by
//! several workers, and what becomes of a row that can never be an event. Knows no HTTP. Rows enter by polling and
//! NOTIFY, events leave through the event router, dead letters and status through the platform's tables.
//!
//! A row is marked only after its event is in the log, and the event's id is made of the row: what is claimed again
//! after a crash in between is recognized there. A worker claims a partition of topics at a time and holds it until its
//! rows are marked, so that a topic's rows go in the order of their ids however many workers run.

mod batch;
mod halted;
mod install;
mod row;
mod service;
mod source;
mod table;
mod trouble;
mod unread;
mod worker;

pub use install::{INSTALL_SQL, Installed, install};
pub use service::{OutboxParts, OutboxService};
pub use trouble::{OutboxError, Trouble};

/// The partitions of topics in one outbox; fixed, because an index is made for it.
const PARTITIONS: i32 = 16;
