//! `api_keys`: by which a customer's servers speak for an application's environment.

use crate::DatabaseError;
use shared_types::{AppId, KeyId, Scope};
use sqlx::{FromRow, PgExecutor};

/// An API key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ApiKey {
    /// `key_…`.
    pub id: String,
    /// Its application.
    pub application_id: String,
    /// Its environment.
    pub environment: String,
    /// What it is called.
    pub name: String,
    /// Roles and verbs.
    pub permissions: Vec<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds; absent while it holds.
    pub revoked_at: Option<i64>,
}

/// Inserts a key.
///
/// # Errors
/// Violates `api_keys_scope` where the application is gone.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    id: &KeyId,
    name: &str,
    secret_hash: &[u8],
    permissions: &[String],
) -> Result<ApiKey, DatabaseError> {
    let sql = "
        insert into api_keys (id, application_id, environment, name, secret_hash, permissions)
        values ($1, $2, $3, $4, $5, $6)
        returning id, application_id, environment, name, permissions,
            (extract(epoch from created_at) * 1000)::bigint as created_at, null::bigint as revoked_at";
    let query = sqlx::query_as(sql).bind(id.as_str()).bind(scope.application().as_str());
    let query = query.bind(scope.environment().as_str()).bind(name).bind(secret_hash).bind(permissions);
    Ok(query.fetch_one(executor).await?)
}

/// The keys of an application behind `after` by id, at most `limit`, revoked ones included.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<ApiKey>, DatabaseError> {
    let sql = "
        select id, application_id, environment, name, permissions,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from revoked_at) * 1000)::bigint as revoked_at
        from api_keys where application_id = $1 and id > $2 order by id limit $3";
    let query = sqlx::query_as(sql).bind(application.as_str()).bind(after.unwrap_or_default()).bind(limit);
    Ok(query.fetch_all(executor).await?)
}

/// Revokes a key (once: a second time keeps the first time's date); `None` where there is none.
///
/// # Errors
/// Only those of the database.
pub async fn revoke(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
) -> Result<Option<ApiKey>, DatabaseError> {
    let sql = "
        update api_keys set revoked_at = coalesce(revoked_at, now()) where application_id = $1 and id = $2
        returning id, application_id, environment, name, permissions,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from revoked_at) * 1000)::bigint as revoked_at";
    Ok(sqlx::query_as(sql).bind(application.as_str()).bind(id).fetch_optional(executor).await?)
}
