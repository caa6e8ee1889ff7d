//! A table as the target describes it, and what it would take for its row changes to be in the stream.

use crate::{target::quoted, trouble::Trouble};
use shared_types::mapping::TableName;
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;

/// A table as the target describes it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub kind: String,
    pub persistence: String,
    pub identity: String,
    pub has_key: bool,
    pub published: bool,
    /// Whether the user may change it as its owner does.
    pub owned: bool,
    /// Whether the publication is there and another's.
    pub foreign_publication: bool,
    /// The table and its partitions, as far as they do not tell whole old rows; ready for SQL.
    pub partial: Vec<String>,
}

impl Found {
    /// Whether updates and deletes of the table work once it is published.
    fn identifiable(&self) -> bool {
        match self.identity.as_str() {
            "f" => true,
            "n" => false,
            _ => self.has_key,
        }
    }
}

/// The tables of `wanted` that are there, as the catalog has them.
///
/// # Errors
/// The trouble that keeps it from answering.
pub(super) async fn describe(
    connection: &mut PgConnection,
    publication: &str,
    wanted: &BTreeMap<TableName, bool>,
) -> Result<BTreeMap<TableName, Found>, Trouble> {
    let sql = "
        select n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind,
            c.relpersistence::text as persistence, c.relreplident::text as identity,
            exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid
                and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end) as has_key,
            exists (select from pg_publication_tables t where t.pubname = $3
                and t.schemaname = n.nspname and t.tablename = c.relname) as published,
            pg_has_role(c.relowner, 'usage') as owned,
            exists (select from pg_publication p where p.pubname = $3
                and not pg_has_role(p.pubowner, 'usage')) as foreign_publication,
            array(select format('%I.%I', pn.nspname, part.relname)
                from (select c.oid as relid union select t.relid from pg_partition_tree(c.oid) t
                    where c.relkind = 'p') parts
                join pg_class part on part.oid = parts.relid join pg_namespace pn on pn.oid = part.relnamespace
                where part.relreplident <> 'f' order by 1) as partial
        from unnest($1::text[], $2::text[]) as wanted (schema, name)
        join pg_namespace n on n.nspname = wanted.schema
        join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name";
    let schemas: Vec<&str> = wanted.keys().map(|table| &*table.schema).collect();
    let names: Vec<&str> = wanted.keys().map(|table| &*table.name).collect();
    let rows = sqlx::query(sql).bind(schemas).bind(names).bind(publication).fetch_all(connection).await?;
    let mut found = BTreeMap::new();
    for row in rows {
        let table = TableName::new(row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?);
        let entry = Found {
            kind: row.try_get("kind")?,
            persistence: row.try_get("persistence")?,
            identity: row.try_get("identity")?,
            has_key: row.try_get("has_key")?,
            published: row.try_get("published")?,
            owned: row.try_get("owned")?,
            foreign_publication: row.try_get("foreign_publication")?,
            partial: row.try_get("partial")?,
        };
        found.insert(table, entry);
    }
    Ok(found)
}

/// What keeps a relation from having row changes at all.
pub(super) fn unfit(table: &TableName, found: &Found) -> Result<(), Trouble> {
    if !matches!(found.kind.as_str(), "r" | "p") {
        return Err(Trouble::new(
            "NOT_A_TABLE",
            format!("{table} is no table"),
            "map the tables that it is made of: views and foreign tables have no row changes",
        ));
    }
    if found.persistence != "p" {
        let message = format!("{table} is unlogged or temporary: its changes are not in the log");
        return Err(Trouble::new("NOT_LOGGED", message, format!("alter table {} set logged;", sql(table))));
    }
    Ok(())
}

/// What has to be run, as the owner, for the table to be published, with whole old rows where they are needed.
pub(super) fn statements(publication: &str, table: &TableName, found: &Found, old_rows: bool) -> Vec<String> {
    let mut statements = Vec::new();
    if old_rows || !found.identifiable() {
        // A partition's identity is its own; that of the whole does not pass on.
        statements
            .extend(found.partial.iter().map(|part| format!("alter table {part} replica identity full")));
    }
    if !found.published {
        statements.push(format!("alter publication {} add table {}", quoted(publication), sql(table)));
    }
    statements
}

/// What helps where the user may not run `statements`.
pub(super) fn cure(publication: &str, table: &TableName, found: &Found, statements: &[String]) -> String {
    let owner = match found.owned && found.foreign_publication {
        true => owner_statement(publication),
        false => format!("alter table {} owner to <user>;", sql(table)),
    };
    format!("make the user the owner ({owner}), or run as the owner: {};", statements.join("; "))
}

/// What makes the publication ours.
pub(super) fn owner_statement(publication: &str) -> String {
    format!("alter publication {} owner to <user>;", quoted(publication))
}

/// There is no such table.
pub(crate) fn missing(table: &TableName) -> Trouble {
    Trouble::new(
        "TABLE_MISSING",
        format!("relation {table} does not exist"),
        "create the table, or write schema.table where it is not in public; the reader looks again by itself",
    )
}

/// Its name as SQL wants it.
pub(super) fn sql(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}
