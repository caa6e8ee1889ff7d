//! A chunk of a table's rows, in the order of its key, with the snapshot that they were read in.

use super::{
    inspect::{self, Columns},
    own_types, quoted,
};
use crate::{row::Relation, stream::SESSION, trouble::Trouble};
use futures::TryStreamExt;
use shared_types::mapping::TableName;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, ValueRef, postgres::PgRow};

/// A row: a text for each column of the relation, as the replication stream writes it.
pub(crate) type TextRow = Vec<Option<Box<[u8]>>>;

/// A table that can be read in the order of its key.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    /// Its columns.
    pub relation: Relation,
    /// The key's columns: their places in the relation, and their types for SQL.
    pub key: Vec<(usize, String)>,
    /// Whether it has partitions.
    partitioned: bool,
    /// How many rows it has, by the planner's estimate.
    pub estimate: Option<i64>,
}

#[cfg(test)]
impl Keyed {
    /// A table with `key`.
    pub fn of(relation: Relation, key: Vec<(usize, String)>) -> Self {
        Self { relation, key, partitioned: false, estimate: None }
    }
}

/// Rows of one snapshot.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The rows, by key.
    pub rows: Vec<TextRow>,
    /// Transactions that were under way in the snapshot, by the lower half of their ids.
    pub running: Vec<u32>,
}

/// The bounds of a chunk: behind `after`, never behind `end`, and up to `upto` where that is fixed already; else at most
/// `rows`, and no more than it takes to reach `bytes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<'a> {
    pub after: Option<&'a [String]>,
    pub upto: Option<&'a [String]>,
    /// The last key of all.
    pub end: &'a [String],
    pub rows: usize,
    pub bytes: usize,
}

/// Makes the texts of values the same as in the replication stream.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn prepare(connection: &mut PgConnection) -> Result<(), Trouble> {
    connection.execute("set standard_conforming_strings = on").await?;
    for setting in SESSION {
        connection.execute(setting).await?;
    }
    Ok(())
}

/// Looks at `table`.
///
/// # Errors
/// `TABLE_MISSING`, `NO_KEY`, or what keeps it from answering.
pub(crate) async fn keyed(connection: &mut PgConnection, table: &TableName) -> Result<Keyed, Trouble> {
    let own = own_types(connection).await?;
    let mut relations =
        inspect::relations(connection, std::slice::from_ref(table), Columns::All, &own).await?;
    let relation = relations.remove(table).ok_or_else(|| super::publication::missing(table))?;
    let sql = "
        select a.attname::text, format_type(a.atttypid, a.atttypmod), c.relkind = 'p',
            nullif(c.reltuples, -1)::bigint
        from pg_class c
        join pg_index i on i.indrelid = c.oid and i.indisprimary
        cross join unnest(i.indkey::int2[]) with ordinality k (attnum, place)
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where c.oid = to_regclass($1) order by k.place";
    let rows: Vec<(String, String, bool, Option<i64>)> =
        sqlx::query_as(sql).bind(name(table)).fetch_all(connection).await?;
    let place = |column: &str| relation.column(column);
    let key: Option<Vec<_>> =
        rows.iter().map(|(column, kind, ..)| Some((place(column)?, kind.clone()))).collect();
    match (key, rows.first()) {
        (Some(key), Some((.., partitioned, estimate))) => {
            Ok(Keyed { relation, key, partitioned: *partitioned, estimate: *estimate })
        }
        _ => Err(Trouble::new(
            "NO_KEY",
            format!("{table} has no primary key, in whose order its rows could be read"),
            "give the table a primary key",
        )),
    }
}

/// Reads a chunk in a snapshot of its own.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn read(
    connection: &mut PgConnection,
    keyed: &Keyed,
    bounds: Bounds<'_>,
) -> Result<Chunk, Trouble> {
    let mut transaction = connection.begin().await?;
    // The snapshot is that of the first statement.
    let sql = "set transaction isolation level repeatable read, read only";
    transaction.execute(sql).await?;
    let snapshot: String =
        sqlx::query_scalar("select pg_current_snapshot()::text").fetch_one(&mut *transaction).await?;
    // The simple protocol answers in texts, written as the replication stream writes them.
    let rows = rows(&mut transaction, &statement(keyed, bounds), bounds).await?;
    transaction.commit().await?;
    Ok(Chunk { rows, running: running(&snapshot) })
}

/// The rows as they come, so that a table of large ones is never held whole.
async fn rows(
    connection: &mut PgConnection,
    statement: &str,
    bounds: Bounds<'_>,
) -> Result<Vec<TextRow>, Trouble> {
    let mut found = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).fetch(connection);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.try_next().await? {
        let row = texts(&row)?;
        bytes += size(&row);
        rows.push(row);
        if bounds.upto.is_none() && bytes >= bounds.bytes {
            break;
        }
    }
    Ok(rows)
}

/// The bytes of a row's values.
pub(crate) fn size(row: &TextRow) -> usize {
    row.iter().flatten().map(|text| text.len()).sum()
}

/// The last key of the table; `None` where it is empty.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn last_key(
    connection: &mut PgConnection,
    keyed: &Keyed,
) -> Result<Option<TextRow>, Trouble> {
    let names: Vec<String> =
        keyed.key.iter().map(|(place, _)| quoted(&keyed.relation.columns[*place].name)).collect();
    let sql = format!(
        "select {} from {} order by {} desc limit 1",
        names.join(", "),
        from(keyed),
        names.join(" desc, ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(connection).await?.as_ref().map(texts).transpose()
}

fn texts(row: &PgRow) -> Result<TextRow, Trouble> {
    let mut texts = Vec::with_capacity(row.len());
    for column in 0..row.len() {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            texts.push(None);
        } else {
            let bytes = value.as_bytes().map_err(|_| Trouble::unreachable("a value without bytes"))?;
            texts.push(Some(bytes.into()));
        }
    }
    Ok(texts)
}

/// `xmin:xmax:xid,xid,…`.
fn running(snapshot: &str) -> Vec<u32> {
    let list = snapshot.rsplit(':').next().unwrap_or_default();
    // The stream names transactions without their epoch.
    list.split(',').filter_map(|id| id.parse::<u64>().ok()).map(|id| id as u32).collect()
}

fn statement(keyed: &Keyed, bounds: Bounds<'_>) -> String {
    let columns: Vec<String> = keyed.relation.columns.iter().map(|column| quoted(&column.name)).collect();
    let key: Vec<&str> = keyed.key.iter().map(|(place, _)| columns[*place].as_str()).collect();
    let key = key.join(", ");
    let mut sql = format!("select {} from {}", columns.join(", "), from(keyed));
    let mut word = "where";
    for (bound, operator) in [(bounds.after, ">"), (Some(bounds.upto.unwrap_or(bounds.end)), "<=")] {
        if let Some(values) = bound {
            let literals: Vec<String> =
                values.iter().zip(&keyed.key).map(|(value, (_, kind))| literal(value, kind)).collect();
            sql.push_str(&format!(" {word} ({key}) {operator} ({})", literals.join(", ")));
            word = "and";
        }
    }
    sql.push_str(&format!(" order by {key}"));
    if bounds.upto.is_none() {
        sql.push_str(&format!(" limit {}", bounds.rows));
    }
    sql
}

fn from(keyed: &Keyed) -> String {
    let only = if keyed.partitioned { "" } else { "only " };
    format!("{only}{}", name(&keyed.relation.table))
}

fn literal(value: &str, kind: &str) -> String {
    format!("'{}'::{kind}", value.replace('\'', "''"))
}

/// The name of a table, for SQL.
pub(crate) fn name(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

/// Writes a watermark into the log, as a transaction of its own.
///
/// # Errors
/// The trouble that keeps it from it.
pub(crate) async fn watermark(
    connection: &mut PgConnection,
    prefix: &str,
    content: &str,
) -> Result<(), Trouble> {
    sqlx::query("select pg_logical_emit_message(true, $1, $2)")
        .bind(prefix)
        .bind(content)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::Column, values::Kind};

    #[test]
    fn a_chunk_is_read_between_its_bounds() {
        let column = |name: &str| Column { name: name.to_owned(), kind: Kind::Text, key: false };
        let keyed = Keyed {
            relation: Relation {
                oid: 0,
                table: TableName::new("public", "o'rders"),
                columns: vec![column("a\"b"), column("note"), column("id")],
            },
            key: vec![(2, "integer".to_owned()), (0, "text".to_owned())],
            partitioned: false,
            estimate: None,
        };
        let end = ["99".to_owned(), "".to_owned()];
        let first = Bounds { after: None, upto: None, end: &end, rows: 5, bytes: 1 };
        assert_eq!(
            statement(&keyed, first),
            "select \"a\"\"b\", \"note\", \"id\" from only \"public\".\"o'rders\" \
             where (\"id\", \"a\"\"b\") <= ('99'::integer, ''::text) order by \"id\", \"a\"\"b\" limit 5"
        );
        let (after, upto) = (["7".to_owned(), "it's".to_owned()], ["9".to_owned(), "z".to_owned()]);
        let again = Bounds { after: Some(&after), upto: Some(&upto), ..first };
        let sql = statement(&keyed, again);
        assert!(sql.contains("where (\"id\", \"a\"\"b\") > ('7'::integer, 'it''s'::text) and ("), "{sql}");
        assert!(!sql.contains("limit"), "a chunk that was read before ends where it ended: {sql}");
    }

    #[test]
    fn a_snapshot_tells_what_was_under_way() {
        assert_eq!(running("10:20:"), [0; 0]);
        assert_eq!(running("10:20:11,4294967308"), [11, 12]);
    }
}
