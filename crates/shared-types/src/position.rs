//! Where a reader stands in a topic's history.

use crate::error::Problem;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// A place in a topic: within one `epoch`, `offset` grows by exactly 1 from event to event.
///
/// `offset` 0 is the place before the first event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Which unbroken stretch of history; a new one means that history was lost.
    pub epoch: Arc<str>,
    /// The number of the last event seen.
    pub offset: u64,
}

impl Position {
    /// A place in `epoch`.
    pub fn new(epoch: impl Into<Arc<str>>, offset: u64) -> Self {
        Self { epoch: epoch.into(), offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = Problem;

    /// Reads `<epoch>:<offset>`.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let problem = || Problem::field("since", "must be <epoch>:<offset>");
        let (epoch, offset) = text.rsplit_once(':').ok_or_else(problem)?;
        if epoch.is_empty() || epoch.len() > 64 {
            return Err(problem());
        }
        Ok(Self::new(epoch, offset.parse().map_err(|_| problem())?))
    }
}
