//! The publication: the tables of the active mappings, each with a replica identity.
//!
//! Owns what is changed about it; `table` knows what a table lacks, `survey` says so without changing anything.

mod survey;
mod table;

pub(crate) use survey::survey;
pub(crate) use table::missing;

use super::quoted;
use crate::trouble::{self, DATABASE, Trouble, USER};
use shared_types::mapping::TableName;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{collections::BTreeMap, time::Duration};
use table::{Found, cure, describe, sql, statements, unfit};

/// How long a lock on a customer's table is waited for.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the reader may change the target beside its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manage {
    /// It keeps the publication and sets replica identities.
    Allowed,
    /// It says what would have to be done.
    Forbidden,
}

/// How a table stands in the publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its changes are in the stream.
    Published {
        /// The stream does not hold whole old rows although a mapping asks for them.
        old_rows_missing: bool,
    },
    /// Not now, but it is tried again.
    Waiting(Trouble),
    /// Somebody has to do something.
    Refused(Trouble),
}

/// Brings publication and replica identities in line with `wanted` (table → whether whole old rows are needed) and
/// answers how each table stands.
///
/// # Errors
/// The trouble with the publication as a whole.
pub(crate) async fn align(
    connection: &mut PgConnection,
    publication: &str,
    wanted: &BTreeMap<TableName, bool>,
    manage: Manage,
) -> Result<BTreeMap<TableName, Standing>, Trouble> {
    ensure(connection, publication, manage).await?;
    let mut standings = BTreeMap::new();
    let found = describe(connection, publication, wanted).await?;
    for (table, &old_rows) in wanted {
        let standing = match found.get(table) {
            None => Standing::Refused(missing(table)),
            Some(found) => settle(connection, publication, table, found, old_rows, manage).await,
        };
        standings.insert(table.clone(), standing);
    }
    if manage == Manage::Allowed {
        remove_others(connection, publication, wanted).await?;
    }
    Ok(standings)
}

/// Drops the publication where it is there.
///
/// # Errors
/// The trouble that keeps it.
pub(crate) async fn drop(connection: &mut PgConnection, publication: &str) -> Result<(), Trouble> {
    let sql = format!("drop publication if exists {}", quoted(publication));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Whether the publication is there.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn exists(connection: &mut PgConnection, publication: &str) -> Result<bool, Trouble> {
    let sql = "select exists (select from pg_publication where pubname = $1)";
    Ok(sqlx::query_scalar(sql).bind(publication).fetch_one(connection).await?)
}

/// Which tables are in the publication, under which names and with which keys and replica identities: a text to compare.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(crate) async fn tables(connection: &mut PgConnection, publication: &str) -> Result<String, Trouble> {
    let sql = "
        select coalesce(string_agg(format('%s %I.%I %s %s', c.oid, n.nspname, c.relname, c.relreplident, (
            select string_agg(i.indexrelid::text, ' ' order by i.indexrelid) from pg_index i
            where i.indrelid = c.oid and (i.indisprimary or i.indisreplident))), ',' order by c.oid), '')
        from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
        join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
        where p.pubname = $1";
    Ok(sqlx::query_scalar(sql).bind(publication).fetch_one(connection).await?)
}

/// The statement that makes it.
pub(crate) fn create_statement(publication: &str) -> String {
    format!(
        "create publication {} with (publish = 'insert, update, delete', publish_via_partition_root = true)",
        quoted(publication)
    )
}

/// Makes the publication where it is not there. It must exist before the slot: the past of a slot is decoded with
/// the catalog of that time.
async fn ensure(connection: &mut PgConnection, publication: &str, manage: Manage) -> Result<(), Trouble> {
    if exists(connection, publication).await? {
        return Ok(());
    }
    let create = create_statement(publication);
    if manage == Manage::Forbidden {
        let message = format!("the publication {publication} does not exist, and the reader may not make it");
        return Err(Trouble::new("PUBLICATION_MISSING", message, format!("{create};")));
    }
    match sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some("42501") => Err(Trouble::new(
            "PRIVILEGE",
            cause.message(),
            format!("grant create on database {DATABASE} to {USER};"),
        )),
        Err(error) => Err(error.into()),
    }
}

async fn settle(
    connection: &mut PgConnection,
    publication: &str,
    table: &TableName,
    found: &Found,
    old_rows: bool,
    manage: Manage,
) -> Standing {
    if let Err(trouble) = unfit(table, found) {
        return Standing::Refused(trouble);
    }
    let statements = statements(publication, table, found, old_rows);
    if statements.is_empty() {
        return Standing::Published { old_rows_missing: false };
    }
    if manage == Manage::Forbidden {
        return forbidden(table, found, &statements);
    }
    match apply(connection, table, &statements).await {
        Ok(()) => Standing::Published { old_rows_missing: false },
        // Without whole old rows the documented fallback holds; without the table in the publication nothing does.
        Err(trouble) if found.published && trouble.code != "LOCKED" => {
            tracing::warn!(%trouble, %table, "cannot set the replica identity");
            Standing::Published { old_rows_missing: old_rows }
        }
        Err(trouble) if trouble.code == "LOCKED" => Standing::Waiting(Trouble {
            message: format!("waiting for lock on {table}: other transactions hold it"),
            ..trouble
        }),
        Err(trouble) if trouble.code == "UNREACHABLE" => Standing::Waiting(trouble),
        // Nothing that is missing on the table's side.
        Err(trouble) if [trouble::READ_ONLY, trouble::DISK_FULL].contains(&trouble.code) => {
            Standing::Refused(trouble)
        }
        Err(trouble) => {
            Standing::Refused(Trouble { cure: cure(publication, table, found, &statements), ..trouble })
        }
    }
}

fn forbidden(table: &TableName, found: &Found, statements: &[String]) -> Standing {
    if found.published {
        return Standing::Published { old_rows_missing: true };
    }
    let message = format!("{table} is not in the publication, and the reader may not change the target");
    Standing::Refused(Trouble::new("NOT_PUBLISHED", message, format!("{};", statements.join("; "))))
}

/// Runs `statements` in one transaction that holds off writers, so that no open transaction has changes of the
/// table on both sides of its entry: those would be missed.
async fn apply(
    connection: &mut PgConnection,
    table: &TableName,
    statements: &[String],
) -> Result<(), Trouble> {
    let mut transaction = connection.begin().await?;
    let milliseconds = LOCK_TIMEOUT.as_millis();
    let lock = format!(
        "set local lock_timeout = {milliseconds}; lock table {} in share row exclusive mode",
        sql(table)
    );
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    tracing::info!(%table, "the table is published");
    Ok(())
}

/// Takes tables out that no mapping wants any more.
async fn remove_others(
    connection: &mut PgConnection,
    publication: &str,
    wanted: &BTreeMap<TableName, bool>,
) -> Result<(), Trouble> {
    let sql_text = "
        select n.nspname::text, c.relname::text
        from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
        join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
        where p.pubname = $1";
    let rows: Vec<(String, String)> =
        sqlx::query_as(sql_text).bind(publication).fetch_all(&mut *connection).await?;
    for (schema, name) in rows {
        let table = TableName::new(schema, name);
        if !wanted.contains_key(&table) {
            let statement = format!(
                "set lock_timeout = {}; alter publication {} drop table {}",
                LOCK_TIMEOUT.as_millis(),
                quoted(publication),
                sql(&table)
            );
            if let Err(error) = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await {
                // Its changes are read and dropped meanwhile.
                tracing::warn!(%error, %table, "cannot take a table out of the publication");
            }
        }
    }
    Ok(())
}
