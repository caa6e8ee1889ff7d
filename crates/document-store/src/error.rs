//! Why a store refuses or fails.

use shared_types::{ErrorKind, Problem};
use thiserror::Error;

/// Why a document was not written or read. Nothing was written, unless the variant says otherwise.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The edit itself refused: the document is not there, is at another revision, has another shape.
    #[error("the edit was refused: {0}")]
    Refused(Problem),
    /// The event log takes no more events for now.
    #[error("the event log is full: its side-effect readers are too far behind")]
    BacklogFull,
    /// Too many documents wait for the archive; none is taken until some have been written there.
    #[error("too many documents are not in the database yet")]
    TooManyUnflushed,
    /// The store does not answer. Whether a write in flight was committed is not known.
    #[error("the document store is unavailable: {0}")]
    Unavailable(String),
    /// The store answered with something that should not be.
    #[error("the document store failed: {0}")]
    Internal(String),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(problem) => problem,
            StoreError::BacklogFull => {
                Problem::new(ErrorKind::Unavailable, "BACKLOG_FULL", "the event log is full; try again later")
            }
            StoreError::TooManyUnflushed => Problem::new(
                ErrorKind::Unavailable,
                "DOCUMENTS_UNFLUSHED",
                "too many documents wait for the database; try again later",
            ),
            StoreError::Unavailable(_) => {
                Problem::unavailable("the document store does not answer; try again")
            }
            StoreError::Internal(_) => Problem::internal(),
        }
    }
}
