//! A plan with how its tables stand in the publication, and what that means for each mapping.

use crate::{
    plan::Plan,
    target::{self, publication::Standing},
    trouble::Trouble,
};
use database::tables::{
    cdc::{MappingState, MappingStatus},
    mappings::Mapping,
};
use shared_types::{MappingId, Scope, mapping::TableName};
use std::{collections::BTreeMap, sync::Arc};

/// A plan, and how its tables stand.
pub(super) struct Aligned {
    pub plan: Arc<Plan>,
    pub standings: BTreeMap<TableName, Standing>,
}

/// Whether there is a slot that keeps what is committed from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// It is there.
    There,
    /// It is still to be found or made.
    Wanted,
}

impl Aligned {
    /// A plan of which nothing can be followed, for what is wrong with the publication as a whole.
    pub fn refused(plan: Plan, trouble: &Trouble) -> Self {
        let tables = plan.mappings.iter().map(|mapping| mapping.definition.table.clone());
        let standings = tables.map(|table| (table, Standing::Refused(trouble.clone()))).collect();
        Self { plan: Arc::new(plan), standings }
    }

    /// The status of each mapping.
    pub fn statuses(&self, slot: Slot) -> BTreeMap<(Scope, MappingId), MappingStatus> {
        let key = |mapping: &Mapping| (mapping.scope.clone(), mapping.id.clone());
        self.plan.mappings.iter().map(|mapping| (key(mapping), self.status(mapping, slot))).collect()
    }

    fn status(&self, mapping: &Mapping, slot: Slot) -> MappingStatus {
        let table = &mapping.definition.table;
        let (state, trouble) = match self.standings.get(table) {
            Some(Standing::Published { .. }) if slot == Slot::Wanted => (MappingState::Pending, None),
            Some(Standing::Published { old_rows_missing: true }) if mapping.definition.needs_old_row() => {
                (MappingState::Live, Some(old_rows_missing(table)))
            }
            Some(Standing::Published { .. }) => (MappingState::Live, None),
            Some(Standing::Waiting(trouble)) => (MappingState::Pending, Some(trouble.clone())),
            Some(Standing::Refused(trouble)) => (MappingState::Error, Some(trouble.clone())),
            None => (MappingState::Pending, None),
        };
        MappingStatus {
            mapping_id: mapping.id.to_string(),
            table: table.to_string(),
            state,
            code: trouble.as_ref().map(|t| t.code.to_owned()),
            message: trouble.as_ref().map(|t| t.message.clone()),
            cure: trouble.map(|t| t.cure),
        }
    }
}

fn old_rows_missing(table: &TableName) -> Trouble {
    let sql = format!(
        "alter table {}.{} replica identity full;",
        target::quoted(&table.schema),
        target::quoted(&table.name)
    );
    Trouble::new(
        "OLD_ROWS_MISSING",
        format!("{table} does not tell its old rows: `changed` and `triggerColumns` fire on every update"),
        sql,
    )
}
