//! Why the log refuses or fails.

use shared_types::{ErrorKind, Problem};
use thiserror::Error;

/// Why an append or a read did not happen. Nothing was appended, unless the variant says otherwise.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The same id was published before with other content.
    #[error("the id {id} was used before with other content")]
    IdConflict {
        /// The id.
        id: String,
    },
    /// Another leader of this source has a higher term.
    #[error("source {source_name}: term {ours} was overtaken by {theirs}")]
    Fenced {
        /// Which source.
        source_name: String,
        /// The term of the refused append.
        ours: u64,
        /// The term that the log has seen.
        theirs: u64,
    },
    /// Unread side effects fill the log to its limit.
    #[error("the log is full: its side-effect readers are too far behind")]
    BacklogFull,
    /// The store does not answer. Whether an append in flight was committed is not known; it may be repeated
    /// under the same identity.
    #[error("the event log is unavailable: {0}")]
    Unavailable(String),
    /// The store answered with something that should not be.
    #[error("the event log failed: {0}")]
    Internal(String),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error {
            LogError::IdConflict { id } => Problem::new(
                ErrorKind::Conflict,
                "ID_CONFLICT",
                format!("id: {id} was published before with other content"),
            ),
            LogError::BacklogFull => {
                Problem::new(ErrorKind::Unavailable, "BACKLOG_FULL", "the event log is full; try again later")
            }
            LogError::Fenced { .. } => {
                Problem::new(ErrorKind::Conflict, "FENCED", "another leader has taken over")
            }
            LogError::Unavailable(_) => Problem::unavailable("the event log does not answer; try again"),
            LogError::Internal(_) => Problem::internal(),
        }
    }
}
