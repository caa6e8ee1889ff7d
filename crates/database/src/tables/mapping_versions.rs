//! `mapping_versions`: what mappings said in each of their versions, and how they stand across environments.
//!
//! [`grid`] and [`promote`] reach over the environments of one application; whoever calls them has checked that the
//! caller may.

use super::mappings::{self, Mapping};
use crate::DatabaseError;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use shared_types::{AppId, Environment, MappingId, Scope};
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};
use std::collections::BTreeMap;

/// One version of a mapping.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingVersion {
    /// Its mapping.
    pub mapping_id: String,
    /// Its number; the highest is what holds.
    pub version: i32,
    /// What the mapping said.
    pub definition: Box<RawValue>,
    /// From which environment it came, where it was promoted.
    pub promoted_from: Option<String>,
    /// Which version it was there.
    pub promoted_version: Option<i32>,
    /// Unix milliseconds.
    pub created_at: i64,
}

#[derive(FromRow)]
struct Stored {
    mapping_id: String,
    version: i32,
    definition: Json<Box<RawValue>>,
    promoted_from: Option<String>,
    promoted_version: Option<i32>,
    created_at: i64,
}

impl From<Stored> for MappingVersion {
    fn from(row: Stored) -> Self {
        Self {
            mapping_id: row.mapping_id,
            version: row.version,
            definition: row.definition.0,
            promoted_from: row.promoted_from,
            promoted_version: row.promoted_version,
            created_at: row.created_at,
        }
    }
}

/// The versions of a mapping before `before`, the newest first, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    mapping: &MappingId,
    before: Option<i32>,
    limit: i64,
) -> Result<Vec<MappingVersion>, DatabaseError> {
    let sql = "
        select mapping_id, version, definition, promoted_from, promoted_version,
            (extract(epoch from created_at) * 1000)::bigint as created_at
        from mapping_versions
        where application_id = $1 and environment = $2 and mapping_id = $3 and ($4::int is null or version < $4)
        order by version desc limit $5";
    let rows: Vec<Stored> = sqlx::query_as(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(mapping.as_str())
        .bind(before)
        .bind(limit)
        .fetch_all(executor)
        .await?;
    Ok(rows.into_iter().map(MappingVersion::from).collect())
}

/// What a promotion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// The mapping was not there.
    Created,
    /// It says something else now.
    Changed,
    /// It said the same already.
    Unchanged,
}

/// Writes `source` into the environment `to` of the same application, under the same id. Call it within a transaction.
///
/// Its version there becomes that of the source, or the next of its own where that is higher: numbers never go back.
///
/// # Errors
/// Violates `mappings_scope` where the application is gone.
pub async fn promote(
    connection: &mut PgConnection,
    source: &Mapping,
    to: Environment,
) -> Result<(Promoted, Mapping), DatabaseError> {
    let scope = Scope::new(source.scope.application().clone(), to);
    let there = mappings::lock(&mut *connection, &scope, &source.id).await?;
    let promoted = match there {
        Some(mapping) if mapping.definition == source.definition => {
            return Ok((Promoted::Unchanged, mapping));
        }
        Some(_) => {
            mappings::update(&mut *connection, &scope, &source.id, &source.definition).await?;
            Promoted::Changed
        }
        None => {
            mappings::create(&mut *connection, &scope, &source.id, &source.definition).await?;
            Promoted::Created
        }
    };
    let sql = "
        with raised as (
            update mappings set version = greatest(version, $4)
            where application_id = $1 and environment = $2 and id = $3 returning version)
        update mapping_versions v set version = raised.version, promoted_from = $5, promoted_version = $4
        from raised
        where v.application_id = $1 and v.environment = $2 and v.mapping_id = $3
            and v.version = (select max(version) from mapping_versions
                where application_id = $1 and environment = $2 and mapping_id = $3)";
    sqlx::query(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(source.id.as_str())
        .bind(source.version)
        .bind(source.scope.environment().as_str())
        .execute(&mut *connection)
        .await?;
    let mapping = mappings::get(&mut *connection, &scope, &source.id).await?;
    // It was written within this transaction.
    Ok((promoted, mapping.ok_or(DatabaseError::Failed(sqlx::Error::RowNotFound))?))
}

/// How a mapping stands in one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Its version there.
    pub version: i32,
    /// Whether it is followed there.
    pub active: bool,
    /// Whether it says something else than in the environment before, from which it can be promoted.
    pub behind: bool,
}

/// A mapping over the environments of its application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GridRow {
    /// `map_…`.
    pub id: String,
    /// Its table, as the first environment that has it says.
    pub table: String,
    /// Its topic, likewise.
    pub topic: String,
    /// How it stands in each environment that has it.
    pub environments: BTreeMap<String, Standing>,
}

/// The mappings of an application behind `after` by id, at most `limit`, over `environments`.
///
/// # Errors
/// Only those of the database.
pub async fn grid(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    environments: &[Environment],
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<GridRow>, DatabaseError> {
    let sql = "
        select m.id, m.environment, m.definition, m.version, coalesce(s.active, false)
        from mappings m
        left join cdc_subscriptions s on s.application_id = m.application_id
            and s.environment = m.environment and s.mapping_id = m.id
        where m.application_id = $1 and m.environment = any ($2) and m.id in (
            select distinct id from mappings where application_id = $1 and environment = any ($2) and id > $3
            order by id limit $4)
        order by m.id";
    let names: Vec<&str> = environments.iter().map(|environment| environment.as_str()).collect();
    let rows: Vec<(String, String, Json<Value>, i32, bool)> = sqlx::query_as(sql)
        .bind(application.as_str())
        .bind(names)
        .bind(after.unwrap_or_default())
        .bind(limit)
        .fetch_all(executor)
        .await?;
    let mut by_id: BTreeMap<String, BTreeMap<Environment, (Value, i32, bool)>> = BTreeMap::new();
    for (id, environment, Json(definition), version, active) in rows {
        if let Ok(environment) = environment.parse() {
            by_id.entry(id).or_default().insert(environment, (definition, version, active));
        }
    }
    Ok(by_id.into_iter().map(|(id, standing)| grid_row(id, standing)).collect())
}

fn grid_row(id: String, standing: BTreeMap<Environment, (Value, i32, bool)>) -> GridRow {
    let text = |name: &str| {
        let first = standing.values().next().and_then(|(definition, ..)| definition.get(name)?.as_str());
        first.unwrap_or_default().to_owned()
    };
    let (table, topic) = (text("table"), text("topic"));
    let mut before: Option<&Value> = None;
    let mut environments = BTreeMap::new();
    for (environment, (definition, version, active)) in &standing {
        let behind = before.is_some_and(|before| before != definition);
        let standing = Standing { version: *version, active: *active, behind };
        environments.insert(environment.as_str().to_owned(), standing);
        before = Some(definition);
    }
    GridRow { id, table, topic, environments }
}
