//! Mappings evaluated against row changes: pure, and compiled once for each shape of a table.
//!
//! Owns what a condition means where a value is not in the stream, and how a payload is written. Knows neither
//! the replication protocol nor the log: a change enters by [`CompiledMapping::evaluate`] and leaves as a
//! [`Decision`].

mod compile;
mod condition;
mod payload;

pub use compile::CompiledMapping;
pub(crate) use compile::MISFIT_CURE;

use crate::row::RowChange;
use shared_types::{Operation, RawObject};

/// What a mapping makes of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// An event.
    Fires {
        /// Its payload.
        payload: RawObject,
        /// Members of its metadata beside the timestamp, each `"name":value`, joined by commas.
        metadata: String,
    },
    /// None, and why.
    Filtered(Filtered),
    /// None, because the mapping does not fit the table.
    Failed(String),
}

/// Why a change makes no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtered {
    /// The mapping does not look at this operation.
    Operation,
    /// None of the trigger columns changed.
    Unchanged,
    /// The condition does not hold.
    Condition,
    /// Whether the condition holds depends on a value that the stream does not hold.
    Unavailable,
}

impl Filtered {
    /// For a person.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Operation => "events: the mapping does not capture this operation",
            Self::Unchanged => "triggerColumns: none of them changed",
            Self::Condition => "when: the condition does not hold",
            Self::Unavailable => "when: it compares a value that the replication stream does not hold",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    /// It depends on whether a column changed, which the stream does not tell: fires, marked.
    ChangedUnknown,
    /// It depends on a value that the stream does not hold: does not fire.
    Unavailable,
}

impl CompiledMapping {
    /// Decides what becomes of `change`.
    pub fn evaluate(&self, change: &RowChange<'_>) -> Decision {
        if !self.captures(change.operation) {
            return Decision::Filtered(Filtered::Operation);
        }
        if let Some(misfit) = &self.misfit {
            return Decision::Failed(misfit.clone());
        }
        let mut changed_unknown = false;
        if change.operation == Operation::Update && !self.triggers.is_empty() {
            match condition::any_changed(&self.triggers, change) {
                Truth::True => {}
                Truth::ChangedUnknown => changed_unknown = true,
                Truth::False | Truth::Unavailable => return Decision::Filtered(Filtered::Unchanged),
            }
        }
        match self.when.as_ref().map_or(Truth::True, |when| when.holds(change)) {
            Truth::True => {}
            Truth::ChangedUnknown => changed_unknown = true,
            Truth::False => return Decision::Filtered(Filtered::Condition),
            Truth::Unavailable => return Decision::Filtered(Filtered::Unavailable),
        }
        self.event(change, changed_unknown, self.metadata(change.operation))
    }

    /// Decides what becomes of a row that was there before, given as an insert: whichever operations the mapping looks
    /// at, its condition holds.
    pub fn snapshot(&self, change: &RowChange<'_>) -> Decision {
        if let Some(misfit) = &self.misfit {
            return Decision::Failed(misfit.clone());
        }
        match self.when.as_ref().map_or(Truth::True, |when| when.holds(change)) {
            Truth::True | Truth::ChangedUnknown => self.event(change, false, &self.snapshot_metadata),
            Truth::False => Decision::Filtered(Filtered::Condition),
            Truth::Unavailable => Decision::Filtered(Filtered::Unavailable),
        }
    }

    fn event(&self, change: &RowChange<'_>, changed_unknown: bool, metadata: &str) -> Decision {
        let mut missing = Vec::new();
        let mut payload = String::with_capacity(self.payload_hint(change));
        self.payload.write(&mut payload, change, &mut missing);
        let mut metadata = metadata.to_owned();
        if changed_unknown {
            metadata.push_str(",\"changedUnknown\":true");
        }
        for (i, path) in missing.iter().enumerate() {
            metadata.push_str(if i == 0 { ",\"unavailable\":[" } else { "," });
            crate::values::push_text(&mut metadata, path);
        }
        if !missing.is_empty() {
            metadata.push(']');
        }
        Decision::Fires { payload: RawObject::from_trusted(payload), metadata }
    }
}

#[cfg(test)]
mod tests;
