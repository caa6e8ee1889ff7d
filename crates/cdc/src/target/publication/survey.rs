//! How tables would stand in the publication, without changing anything.

use super::{
    Manage,
    table::{Found, describe, missing, owner_statement, ownership, statements, unfit},
};
use crate::trouble::Trouble;
use shared_types::mapping::TableName;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// How each table of `wanted` would stand, without changing anything: a word, or the trouble with it.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn survey(
    connection: &mut PgConnection,
    publication: &str,
    wanted: &BTreeMap<TableName, bool>,
    manage: Manage,
) -> Result<BTreeMap<TableName, Result<String, Trouble>>, Trouble> {
    let found = describe(connection, publication, wanted).await?;
    let judge = |(table, &old_rows): (&TableName, &bool)| {
        let judged = match found.get(table) {
            None => Err(missing(table)),
            Some(found) => judge(publication, table, found, old_rows, manage),
        };
        (table.clone(), judged)
    };
    Ok(wanted.iter().map(judge).collect())
}

fn judge(
    publication: &str,
    table: &TableName,
    found: &Found,
    old_rows: bool,
    manage: Manage,
) -> Result<String, Trouble> {
    unfit(table, found)?;
    let statements = statements(publication, table, found, old_rows);
    if statements.is_empty() {
        return Ok(format!("{table} is published"));
    }
    if manage == Manage::Allowed && found.owned && (found.published || !found.foreign_publication) {
        return Ok(format!(
            "the reader will publish {table}, and set its replica identity where that is needed"
        ));
    }
    let joined = format!("{};", statements.join("; "));
    match (manage, found.published) {
        (_, true) => {
            let message = format!(
                "{table} does not tell its old rows: `changed` and `triggerColumns` fire on every update"
            );
            Err(Trouble::new("OLD_ROWS_MISSING", message, joined))
        }
        (Manage::Forbidden, false) => {
            let message =
                format!("{table} is not in the publication, and the reader may not change the target");
            Err(Trouble::new("NOT_PUBLISHED", message, joined))
        }
        (Manage::Allowed, false) if found.owned => {
            let message = format!("must be owner of publication {publication}");
            Err(Trouble::new("PRIVILEGE", message, owner_statement(publication)))
        }
        (Manage::Allowed, false) => {
            let message = format!("must be owner of table {table}");
            Err(Trouble::new("PRIVILEGE", message, ownership(table, found)))
        }
    }
}
