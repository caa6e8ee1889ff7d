//! A mapping with the names of its columns resolved to places in the rows of one relation.

use super::{condition::Test, payload::Node};
use crate::row::{Relation, RowChange};
use shared_types::{
    Operation,
    mapping::{MappingDefinition, Reference, RowSide},
};

/// A mapping, ready to be evaluated against the rows of one relation.
#[derive(Clone, Debug)]
pub struct CompiledMapping {
    operations: Vec<Operation>,
    pub(super) triggers: Vec<usize>,
    pub(super) when: Option<Test>,
    pub(super) payload: Node,
    /// Why it does not fit the relation: its condition names a column that is not there.
    pub(super) misfit: Option<String>,
    /// Columns of the payload that the relation does not have.
    absent: Vec<String>,
    /// For each operation, `"table":…,"operation":…`.
    metadata: [String; 3],
    /// The same for a row that was there before.
    pub(super) snapshot_metadata: String,
}

/// A column of one of the two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub side: RowSide,
    pub column: usize,
}

/// Resolves names, and remembers those that are not there.
pub(super) struct Resolver<'r> {
    pub relation: &'r Relation,
    pub missing: Vec<String>,
}

impl Resolver<'_> {
    pub fn column(&mut self, name: &str) -> Option<usize> {
        let found = self.relation.column(name);
        if found.is_none() && !self.missing.iter().any(|m| m == name) {
            self.missing.push(name.to_owned());
        }
        found
    }

    pub fn place(&mut self, reference: &Reference) -> Option<Place> {
        Some(Place { side: reference.side, column: self.column(&reference.column)? })
    }
}

impl CompiledMapping {
    /// Fits `definition` to `relation`.
    ///
    /// A column that the relation does not have makes the mapping fail where the condition or the trigger
    /// columns name it; in the payload it is left out like a value that the stream does not hold.
    pub fn new(definition: &MappingDefinition, relation: &Relation) -> Self {
        let mut resolver = Resolver { relation, missing: Vec::new() };
        let triggers = definition.trigger_columns.iter().filter_map(|name| resolver.column(name)).collect();
        let when = definition.when.as_ref().map(|when| Test::compile(when, &mut resolver));
        let missing = std::mem::take(&mut resolver.missing);
        let payload = Node::compile(&definition.payload, "", &mut resolver);
        let misfit = missing.first().map(|name| absent_column(name, relation));
        Self {
            operations: definition.events.clone(),
            triggers,
            when,
            payload,
            misfit,
            absent: resolver.missing,
            metadata: [Operation::Insert, Operation::Update, Operation::Delete]
                .map(|operation| metadata(relation, operation.as_str())),
            snapshot_metadata: metadata(relation, "snapshot"),
        }
    }

    /// What of the mapping does not fit the relation, for a person: a column that is not there.
    pub fn misfit(&self, relation: &Relation) -> Option<String> {
        self.misfit.clone().or_else(|| self.absent.first().map(|name| absent_column(name, relation)))
    }

    /// Whether it looks at `operation`.
    pub fn captures(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }

    pub(super) fn metadata(&self, operation: Operation) -> &str {
        &self.metadata[operation as usize]
    }

    /// A guess at the payload's size, so that writing it seldom grows the text.
    pub(super) fn payload_hint(&self, change: &RowChange<'_>) -> usize {
        64 + 24 * change.relation.columns.len()
    }
}

/// What helps where a mapping names a column that is not in the stream.
pub(crate) const MISFIT_CURE: &str =
    "add the column, or change the mapping; generated columns are not in row changes";

fn absent_column(name: &str, relation: &Relation) -> String {
    format!("the row changes of {} hold no column {name}", relation.table)
}

fn metadata(relation: &Relation, operation: &str) -> String {
    let mut text = "\"table\":".to_owned();
    crate::values::push_text(&mut text, &relation.table.to_string());
    text.push_str(",\"operation\":\"");
    text.push_str(operation);
    text.push('"');
    text
}
