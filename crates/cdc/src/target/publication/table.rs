//! A table as the target describes it, and what it would take for its row changes to be in the stream.

use crate::{
    target::quoted,
    trouble::{Trouble, USER},
};
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
    /// The owner, where the user may be made a member of it and then may what it may. A superuser is left out, because
    /// its members can make themselves superusers.
    pub joinable_owner: Option<String>,
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
            (select o.rolname::text from pg_roles o join pg_roles me on me.rolname = current_user
                where o.oid = c.relowner and not o.rolsuper and o.rolname !~ '^pg_' and me.rolinherit
                and not pg_has_role(o.oid, me.oid, 'member')) as joinable_owner,
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
            joinable_owner: row.try_get("joinable_owner")?,
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
    let owned = match (found.owned && found.foreign_publication, &found.joinable_owner) {
        (true, _) => format!("make the user the owner ({})", owner_statement(publication)),
        (false, None) => format!("make the user the owner ({})", transfer(table)),
        (false, Some(owner)) => format!(
            "let the user act as the table's owner ({}), or make it the owner itself ({})",
            membership(owner),
            transfer(table)
        ),
    };
    let statements = statements.join("; ");
    format!("{owned}, or run as a superuser or an owner of both table and publication: {statements};")
}

/// The least that lets the user change a table as its owner does.
pub(super) fn ownership(table: &TableName, found: &Found) -> String {
    found.joinable_owner.as_deref().map_or_else(|| transfer(table), membership)
}

/// It leaves the table to its owner, and gives the user the owner's rights on everything else too.
fn membership(owner: &str) -> String {
    format!("grant {} to {USER};", quoted(owner))
}

/// It takes the table from its owner.
fn transfer(table: &TableName) -> String {
    format!("alter table {} owner to {USER};", sql(table))
}

/// What makes the publication ours.
pub(super) fn owner_statement(publication: &str) -> String {
    format!("alter publication {} owner to {USER};", quoted(publication))
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
