//! `signing_keys`: what tokens are signed with, one application's apart from another's.

use crate::{DatabaseError, sealing::Sealer};
use serde::Serialize;
use shared_types::{AppId, KeyId};
use sqlx::{FromRow, PgExecutor};

/// A signing key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningKey {
    /// `key_…`, the `kid` of what it signs.
    pub key_id: String,
    /// `HS256`.
    pub algorithm: String,
    /// Whether it signs; an inactive one only verifies.
    pub active: bool,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds; absent while it is active.
    pub deactivated_at: Option<i64>,
}

/// What a key's secret is sealed for.
pub(crate) fn context(application: &str, id: &str) -> String {
    format!("signing_keys.secret/{application}/{id}")
}

/// Inserts an active key with `secret`.
///
/// # Errors
/// Violates `signing_keys_application` where the application is gone.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    sealer: &Sealer,
    application: &AppId,
    id: &KeyId,
    secret: &str,
) -> Result<SigningKey, DatabaseError> {
    let sql = "
        insert into signing_keys (id, application_id, secret_sealed) values ($1, $2, $3)
        returning id as key_id, algorithm, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at, null::bigint as deactivated_at";
    let sealed = sealer.seal(secret, &context(application.as_str(), id.as_str()));
    Ok(sqlx::query_as(sql)
        .bind(id.as_str())
        .bind(application.as_str())
        .bind(sealed)
        .fetch_one(executor)
        .await?)
}

/// The keys of an application behind `after` by id, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<SigningKey>, DatabaseError> {
    let sql = "
        select id as key_id, algorithm, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from deactivated_at) * 1000)::bigint as deactivated_at
        from signing_keys where application_id = $1 and id > $2 order by id limit $3";
    let query = sqlx::query_as(sql).bind(application.as_str()).bind(after.unwrap_or_default()).bind(limit);
    Ok(query.fetch_all(executor).await?)
}

/// Makes a key one that only verifies; `None` where there is none.
///
/// # Errors
/// Only those of the database.
pub async fn deactivate(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
) -> Result<Option<SigningKey>, DatabaseError> {
    let sql = "
        update signing_keys set active = false, deactivated_at = coalesce(deactivated_at, now())
        where application_id = $1 and id = $2
        returning id as key_id, algorithm, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from deactivated_at) * 1000)::bigint as deactivated_at";
    Ok(sqlx::query_as(sql).bind(application.as_str()).bind(id).fetch_optional(executor).await?)
}

/// Removes a key; whether it was there. What it signed is refused from then on.
///
/// # Errors
/// Only those of the database.
pub async fn delete(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
) -> Result<bool, DatabaseError> {
    let sql = "delete from signing_keys where application_id = $1 and id = $2";
    Ok(sqlx::query(sql).bind(application.as_str()).bind(id).execute(executor).await?.rows_affected() > 0)
}

/// The active key of an application that was made last, with its secret.
///
/// # Errors
/// [`DatabaseError::Unsealable`] under another secret key.
pub async fn active(
    executor: impl PgExecutor<'_>,
    sealer: &Sealer,
    application: &AppId,
) -> Result<Option<(String, String)>, DatabaseError> {
    let sql = "
        select id, secret_sealed from signing_keys
        where application_id = $1 and active order by id desc limit 1";
    let row: Option<(String, String)> =
        sqlx::query_as(sql).bind(application.as_str()).fetch_optional(executor).await?;
    row.map(|(id, sealed)| {
        let secret = sealer.open(&sealed, &context(application.as_str(), &id))?;
        Ok((id, secret))
    })
    .transpose()
}
