//! `applications` and `environments`: the tenants and what is set for them.
//!
//! [`with_cdc_targets`] and [`with_outboxes`] read over all tenants; their rows carry their scope.

use crate::{DatabaseError, sealing::Sealer};
use serde::{Deserialize, Serialize};
use shared_types::{AppId, Environment, Scope};
use sqlx::{FromRow, PgConnection, PgExecutor, types::Json};
use std::collections::BTreeMap;

/// An application as it is stored.
#[derive(Clone, Debug, FromRow)]
pub struct Application {
    /// `app_…`.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What is set for it.
    pub config: Json<ApplicationConfig>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

/// What is set for an application, by environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplicationConfig {
    /// The databases whose changes are followed.
    pub cdc: BTreeMap<Environment, StoredTarget>,
    /// The databases whose outboxes are read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outbox: BTreeMap<Environment, StoredOutbox>,
    /// Where connections of the application's webhooks, targets and outboxes may lead.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub webhook_network_policy: BTreeMap<Environment, NetworkPolicy>,
    /// Which topics may be used; `open` where absent.
    pub topic_policy: BTreeMap<Environment, TopicPolicy>,
    /// Origins that browsers may connect from; those of the server's settings where absent.
    pub allowed_origins: BTreeMap<Environment, Vec<String>>,
    /// Limits below the server's own.
    pub limits: BTreeMap<Environment, Limits>,
}

/// Where connections of an application may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// Whether private networks and this machine may be reached too.
    pub allow_private: bool,
}

/// A target database as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredTarget {
    /// The sealed URL.
    pub database_url: String,
    /// Whether publication and replica identities of the target may be changed; by environment where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manage_tables: Option<bool>,
}

/// A target database, opened.
#[derive(Debug)]
pub struct OpenedTarget {
    /// Whose.
    pub scope: Scope,
    /// Its URL; an error under another secret key.
    pub url: Result<String, DatabaseError>,
    /// What is set about changing it.
    pub manage_tables: Option<bool>,
    /// What is set about private networks.
    pub allow_private: Option<bool>,
}

/// The database of an outbox as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredOutbox {
    /// The sealed URL.
    pub database_url: String,
}

/// The database of an outbox, opened.
#[derive(Debug)]
pub struct OpenedOutbox {
    /// Whose.
    pub scope: Scope,
    /// Its URL; an error under another secret key.
    pub url: Result<String, DatabaseError>,
    /// What is set about private networks.
    pub allow_private: Option<bool>,
}

impl ApplicationConfig {
    /// What is set about private networks for `environment`.
    pub fn allow_private(&self, environment: Environment) -> Option<bool> {
        self.webhook_network_policy.get(&environment).map(|policy| policy.allow_private)
    }
}

/// Which topics may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicPolicy {
    /// Any well-formed name.
    #[default]
    Open,
    /// Registered topics only.
    Registered,
}

/// Limits of an environment's connections; the server's own hold where absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Subscriptions a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u32>,
    /// Channels a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    /// Bytes a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_bytes: Option<u32>,
    /// Client messages a second a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u32>,
}

/// Seals the URL of a target database for its place.
pub fn seal_target(sealer: &Sealer, scope: &Scope, url: &str, manage_tables: Option<bool>) -> StoredTarget {
    StoredTarget { database_url: sealer.seal(url, &target_context(scope)), manage_tables }
}

/// Opens the URL of a target database.
///
/// # Errors
/// [`DatabaseError::Unsealable`] under another secret key.
pub fn open_target(sealer: &Sealer, scope: &Scope, target: &StoredTarget) -> Result<String, DatabaseError> {
    sealer.open(&target.database_url, &target_context(scope))
}

/// Seals the URL of an outbox's database for its place.
pub fn seal_outbox(sealer: &Sealer, scope: &Scope, url: &str) -> StoredOutbox {
    StoredOutbox { database_url: sealer.seal(url, &outbox_context(scope)) }
}

/// Opens the URL of an outbox's database.
///
/// # Errors
/// [`DatabaseError::Unsealable`] under another secret key.
pub fn open_outbox(sealer: &Sealer, scope: &Scope, outbox: &StoredOutbox) -> Result<String, DatabaseError> {
    sealer.open(&outbox.database_url, &outbox_context(scope))
}

fn outbox_context(scope: &Scope) -> String {
    format!("applications.config.outbox/{scope}")
}

fn target_context(scope: &Scope) -> String {
    format!("applications.config.cdc/{scope}")
}

/// Inserts an application with its three environments.
///
/// # Errors
/// Only those of the database.
pub async fn insert(
    connection: &mut PgConnection,
    id: &AppId,
    name: &str,
    config: &ApplicationConfig,
) -> Result<Application, DatabaseError> {
    let sql = "
        insert into applications (id, name, config) values ($1, $2, $3)
        returning id, name, config,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let application = sqlx::query_as(sql)
        .bind(id.as_str())
        .bind(name)
        .bind(Json(config))
        .fetch_one(&mut *connection)
        .await?;
    let names: Vec<&str> = Environment::ALL.iter().map(|e| e.as_str()).collect();
    sqlx::query("insert into environments (application_id, environment) select $1, unnest($2::text[])")
        .bind(id.as_str())
        .bind(names)
        .execute(connection)
        .await?;
    Ok(application)
}

/// One application.
///
/// # Errors
/// Only those of the database.
pub async fn find(executor: impl PgExecutor<'_>, id: &AppId) -> Result<Option<Application>, DatabaseError> {
    let sql = "
        select id, name, config,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from applications where id = $1";
    Ok(sqlx::query_as(sql).bind(id.as_str()).fetch_optional(executor).await?)
}

/// One application, locked until the transaction ends, so that a change is made of what is read.
///
/// # Errors
/// Only those of the database.
pub async fn lock(connection: &mut PgConnection, id: &AppId) -> Result<Option<Application>, DatabaseError> {
    let sql = "
        select id, name, config,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from applications where id = $1 for update";
    Ok(sqlx::query_as(sql).bind(id.as_str()).fetch_optional(connection).await?)
}

/// The applications behind `after` by id, at most `limit`; only those of `visible` where that is given.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    visible: Option<&[String]>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Application>, DatabaseError> {
    let sql = "
        select id, name, config,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from applications
        where ($1::text[] is null or id = any ($1)) and id > $2
        order by id limit $3";
    let query = sqlx::query_as(sql).bind(visible).bind(after.unwrap_or_default()).bind(limit);
    Ok(query.fetch_all(executor).await?)
}

/// Writes name and config; `None` where there is no such application.
///
/// # Errors
/// Only those of the database.
pub async fn update(
    executor: impl PgExecutor<'_>,
    id: &AppId,
    name: &str,
    config: &ApplicationConfig,
) -> Result<Option<Application>, DatabaseError> {
    let sql = "
        update applications set name = $2, config = $3, updated_at = now() where id = $1
        returning id, name, config,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    Ok(sqlx::query_as(sql).bind(id.as_str()).bind(name).bind(Json(config)).fetch_optional(executor).await?)
}

/// Removes an application and all that belongs to it; whether it was there.
///
/// # Errors
/// Only those of the database.
pub async fn delete(executor: impl PgExecutor<'_>, id: &AppId) -> Result<bool, DatabaseError> {
    let done =
        sqlx::query("delete from applications where id = $1").bind(id.as_str()).execute(executor).await?;
    Ok(done.rows_affected() > 0)
}

/// The target databases of all applications, opened; one that cannot be opened is answered as its error.
///
/// # Errors
/// Only those of the database.
pub async fn with_cdc_targets(
    executor: impl PgExecutor<'_>,
    sealer: &Sealer,
) -> Result<Vec<OpenedTarget>, DatabaseError> {
    let rows: Vec<(String, Json<ApplicationConfig>)> = sqlx::query_as(
        "select id, config from applications where config -> 'cdc' <> '{}'::jsonb order by id",
    )
    .fetch_all(executor)
    .await?;
    let mut opened = Vec::new();
    for (id, Json(config)) in rows {
        let id = AppId::from_stored(id);
        for (environment, target) in &config.cdc {
            let scope = Scope::new(id.clone(), *environment);
            opened.push(OpenedTarget {
                url: open_target(sealer, &scope, target),
                scope,
                manage_tables: target.manage_tables,
                allow_private: config.allow_private(*environment),
            });
        }
    }
    Ok(opened)
}

/// The outboxes' databases of all applications, opened; one that cannot be opened is answered as its error.
///
/// # Errors
/// Only those of the database.
pub async fn with_outboxes(
    executor: impl PgExecutor<'_>,
    sealer: &Sealer,
) -> Result<Vec<OpenedOutbox>, DatabaseError> {
    let rows: Vec<(String, Json<ApplicationConfig>)> = sqlx::query_as(
        "select id, config from applications where config -> 'outbox' <> '{}'::jsonb order by id",
    )
    .fetch_all(executor)
    .await?;
    let mut opened = Vec::new();
    for (id, Json(config)) in rows {
        let id = AppId::from_stored(id);
        for (environment, outbox) in &config.outbox {
            let scope = Scope::new(id.clone(), *environment);
            opened.push(OpenedOutbox {
                url: open_outbox(sealer, &scope, outbox),
                scope,
                allow_private: config.allow_private(*environment),
            });
        }
    }
    Ok(opened)
}

/// Waits for whoever else changes which outboxes are read, until the transaction ends: what is read now of
/// [`with_outboxes`] holds until then.
///
/// # Errors
/// Only those of the database.
pub async fn lock_outboxes(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    sqlx::query("select pg_advisory_xact_lock(hashtext('applications.config.outbox'))")
        .execute(connection)
        .await?;
    Ok(())
}
