//! `mappings` and `mapping_versions`: which row changes of a scope's target become which events.
//!
//! [`active`] reads over several scopes; its rows carry theirs. Every change of a mapping grows `cdc_version` by a
//! trigger, which is how readers notice.

use crate::DatabaseError;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use shared_types::{AppId, MappingId, Scope, TopicName, mapping::MappingDefinition};
use sqlx::{FromRow, PgConnection, PgExecutor, Row, postgres::PgRow, types::Json};

/// A mapping as it is stored.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// To whom it belongs.
    pub scope: Scope,
    /// `map_…`.
    pub id: MappingId,
    /// What it says.
    pub definition: MappingDefinition,
    /// Grows by 1 with every change.
    pub version: i32,
    /// Whether its subscription is active.
    pub active: bool,
    /// Whether its table is sent anew after changes were lost.
    pub resync: bool,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

impl Mapping {
    /// The resource: the definition's members between `id` and `environment`, `version`, `active`, `resync`,
    /// `createdAt`, `updatedAt`.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("id".into(), self.id.as_str().into());
        if let Value::Object(definition) = self.definition.to_json() {
            object.extend(definition);
        }
        object.insert("environment".into(), self.scope.environment().as_str().into());
        object.insert("version".into(), self.version.into());
        object.insert("active".into(), self.active.into());
        object.insert("resync".into(), self.resync.into());
        object.insert("createdAt".into(), self.created_at.into());
        object.insert("updatedAt".into(), self.updated_at.into());
        Value::Object(object)
    }
}

impl Serialize for Mapping {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl FromRow<'_, PgRow> for Mapping {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let environment: String = row.try_get("environment")?;
        let environment = environment.parse().map_err(|problem| sqlx::Error::Decode(Box::new(problem)))?;
        let Json(definition): Json<Value> = row.try_get("definition")?;
        let definition = MappingDefinition::parse(&definition)
            .map_err(|problem| sqlx::Error::Decode(Box::new(problem)))?;
        Ok(Self {
            scope: Scope::new(AppId::from_stored(row.try_get::<String, _>("application_id")?), environment),
            id: MappingId::from_stored(row.try_get::<String, _>("id")?),
            definition,
            version: row.try_get("version")?,
            active: row.try_get("active")?,
            resync: row.try_get("resync")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// The columns of a mapping `m`, whose subscription `s` may be missing.
macro_rules! select_mapping {
    ($rest:literal) => {
        concat!(
            "select m.application_id, m.environment, m.id, m.definition, m.version,
                coalesce(s.active, false) as active, m.resync,
                (extract(epoch from m.created_at) * 1000)::bigint as created_at,
                (extract(epoch from m.updated_at) * 1000)::bigint as updated_at
            from mappings m
            left join cdc_subscriptions s on s.application_id = m.application_id
                and s.environment = m.environment and s.mapping_id = m.id ",
            $rest
        )
    };
}

/// Inserts a mapping with an active subscription and its first version. Call it within a transaction.
///
/// # Errors
/// Violates `mappings_pkey` where the id is taken in this scope, `mappings_scope` where the application is gone.
pub async fn create(
    connection: &mut PgConnection,
    scope: &Scope,
    id: &MappingId,
    definition: &MappingDefinition,
) -> Result<Mapping, DatabaseError> {
    let sql = "
        insert into mappings (application_id, environment, id, table_schema, table_name, topic, definition)
        values ($1, $2, $3, $4, $5, $6, $7::json)
        returning application_id, environment, id, definition, version, true as active, resync,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let mapping: Mapping = sqlx::query_as(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(id.as_str())
        .bind(&*definition.table.schema)
        .bind(&*definition.table.name)
        .bind(definition.topic.as_str())
        .bind(as_written(definition))
        .fetch_one(&mut *connection)
        .await?;
    super::cdc::subscribe(&mut *connection, scope, id).await?;
    keep_version(connection, &mapping).await?;
    Ok(mapping)
}

/// One mapping.
///
/// # Errors
/// Only those of the database.
pub async fn get(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    id: &MappingId,
) -> Result<Option<Mapping>, DatabaseError> {
    let sql = select_mapping!("where m.application_id = $1 and m.environment = $2 and m.id = $3");
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(id.as_str()).fetch_optional(executor).await?)
}

/// One mapping, locked until the transaction ends, so that a change is made of what is read.
///
/// # Errors
/// Only those of the database.
pub async fn lock(
    connection: &mut PgConnection,
    scope: &Scope,
    id: &MappingId,
) -> Result<Option<Mapping>, DatabaseError> {
    let sql =
        select_mapping!("where m.application_id = $1 and m.environment = $2 and m.id = $3 for update of m");
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(id.as_str()).fetch_optional(connection).await?)
}

/// The mappings behind `after` by id, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Mapping>, DatabaseError> {
    let sql = select_mapping!(
        "where m.application_id = $1 and m.environment = $2 and m.id > $3 order by m.id limit $4"
    );
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(after.unwrap_or_default()).bind(limit).fetch_all(executor).await?)
}

/// The mappings that send to `topic`, behind `after` by id, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn by_topic(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    topic: &TopicName,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Mapping>, DatabaseError> {
    let sql = select_mapping!(
        "where m.application_id = $1 and m.environment = $2 and m.topic = $3 and m.id > $4
        order by m.id limit $5"
    );
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(topic.as_str()).bind(after.unwrap_or_default()).bind(limit).fetch_all(executor).await?)
}

/// Writes what a mapping says as its next version; `None` where there is no such mapping. Call it within a
/// transaction.
///
/// # Errors
/// Only those of the database.
pub async fn update(
    connection: &mut PgConnection,
    scope: &Scope,
    id: &MappingId,
    definition: &MappingDefinition,
) -> Result<Option<Mapping>, DatabaseError> {
    let sql = "
        update mappings set table_schema = $4, table_name = $5, topic = $6, definition = $7::json,
            version = version + 1, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3";
    let done = sqlx::query(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(id.as_str())
        .bind(&*definition.table.schema)
        .bind(&*definition.table.name)
        .bind(definition.topic.as_str())
        .bind(as_written(definition))
        .execute(&mut *connection)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let mapping = get(&mut *connection, scope, id).await?;
    if let Some(mapping) = &mapping {
        keep_version(connection, mapping).await?;
    }
    Ok(mapping)
}

/// Says whether a mapping's table is sent anew after changes were lost; `false` where there is no such mapping.
///
/// # Errors
/// Only those of the database.
pub async fn set_resync(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    id: &MappingId,
    resync: bool,
) -> Result<bool, DatabaseError> {
    let sql = "
        update mappings set resync = $4, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(id.as_str()).bind(resync).execute(executor).await?.rows_affected() > 0)
}

/// Its text: as a parameter of type `jsonb` it would lose the order of its members.
fn as_written(definition: &MappingDefinition) -> String {
    definition.to_json().to_string()
}

async fn keep_version(connection: &mut PgConnection, mapping: &Mapping) -> Result<(), DatabaseError> {
    let sql = "
        insert into mapping_versions (application_id, environment, mapping_id, version, definition)
        values ($1, $2, $3, $4, $5::json)";
    sqlx::query(sql)
        .bind(mapping.scope.application().as_str())
        .bind(mapping.scope.environment().as_str())
        .bind(mapping.id.as_str())
        .bind(mapping.version)
        .bind(as_written(&mapping.definition))
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes a mapping with its subscription and versions; whether it was there.
///
/// # Errors
/// Only those of the database.
pub async fn delete(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    id: &MappingId,
) -> Result<bool, DatabaseError> {
    let sql = "delete from mappings where application_id = $1 and environment = $2 and id = $3";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(id.as_str()).execute(executor).await?.rows_affected() > 0)
}

/// The mappings with an active subscription in any of `scopes`, by id.
///
/// # Errors
/// Only those of the database.
pub async fn active(executor: impl PgExecutor<'_>, scopes: &[Scope]) -> Result<Vec<Mapping>, DatabaseError> {
    let sql = select_mapping!(
        "join unnest($1::text[], $2::text[]) as wanted (application_id, environment)
            on wanted.application_id = m.application_id and wanted.environment = m.environment
        where s.active order by m.id, m.application_id, m.environment"
    );
    let applications: Vec<&str> = scopes.iter().map(|scope| scope.application().as_str()).collect();
    let environments: Vec<&str> = scopes.iter().map(|scope| scope.environment().as_str()).collect();
    Ok(sqlx::query_as(sql).bind(applications).bind(environments).fetch_all(executor).await?)
}
