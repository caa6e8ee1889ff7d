//! Change data capture: committed row changes of customers' databases become events.
//!
//! Owns the replication stream and its protocol (nothing else knows pgoutput), the evaluation of mappings, the
//! slot and the publication in the target, and who reads which target. Knows no HTTP and no gateway: row
//! changes enter by logical replication, mappings come from the platform's database, events leave through
//! the event router, and what became of it all is in the status tables.

mod appends;
mod backfill;
mod blind;
mod caretaker;
pub mod evaluate;
mod farewell;
mod lead;
pub mod pgoutput;
mod plan;
pub mod preflight;
mod reader;
mod recorder;
pub mod row;
mod seen;
mod service;
mod session;
mod size;
mod snapshots;
mod spill;
mod status;
mod stream;
mod supervisor;
pub mod target;
mod trouble;
pub mod values;

pub use service::{
    CdcParts, CdcService, CdcSettings, CdcTarget, Origin, SpillSettings, TargetSource, application_targets,
    manage,
};
pub use size::Size;
pub use target::{Names, TargetUrl, publication::Manage};
pub use trouble::Trouble;
