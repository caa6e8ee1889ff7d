//! `services`: the registered namespaces of documents of an application.

use crate::DatabaseError;
use shared_types::AppId;
use sqlx::{FromRow, PgExecutor};

/// A registered service. Its times are ISO 8601, in UTC with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Service {
    /// `svc_…`.
    pub id: String,
    /// Its application.
    pub application_id: String,
    /// `session`.
    pub name: String,
    /// What its documents are.
    pub description: Option<String>,
    /// When it was registered.
    pub created_at: String,
    /// When it was last changed.
    pub updated_at: String,
}

/// Inserts a service.
///
/// # Errors
/// Violates `services_name` where the name is taken, `services_application` where the application is gone.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
    name: &str,
    description: Option<&str>,
) -> Result<Service, DatabaseError> {
    let sql = "
        insert into services (id, application_id, name, description) values ($1, $2, $3, $4)
        returning id, application_id, name, description,
            to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as created_at,
            to_char(updated_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as updated_at";
    let query = sqlx::query_as(sql).bind(id).bind(application.as_str()).bind(name).bind(description);
    Ok(query.fetch_one(executor).await?)
}

/// One service.
///
/// # Errors
/// Only those of the database.
pub async fn find(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
) -> Result<Option<Service>, DatabaseError> {
    let sql = "
        select id, application_id, name, description,
            to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as created_at,
            to_char(updated_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as updated_at
        from services where application_id = $1 and id = $2";
    Ok(sqlx::query_as(sql).bind(application.as_str()).bind(id).fetch_optional(executor).await?)
}

/// Whether a service of this name is registered.
///
/// # Errors
/// Only those of the database.
pub async fn is_registered(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    name: &str,
) -> Result<bool, DatabaseError> {
    let sql = "select exists (select from services where application_id = $1 and name = $2)";
    Ok(sqlx::query_scalar(sql).bind(application.as_str()).bind(name).fetch_one(executor).await?)
}

/// The services behind `after` by name, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Service>, DatabaseError> {
    let sql = "
        select id, application_id, name, description,
            to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as created_at,
            to_char(updated_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as updated_at
        from services where application_id = $1 and name > $2 order by name limit $3";
    let query = sqlx::query_as(sql).bind(application.as_str()).bind(after.unwrap_or_default()).bind(limit);
    Ok(query.fetch_all(executor).await?)
}

/// Changes what is given (a description of `Some(None)` is taken away); `None` where there is no such service.
///
/// # Errors
/// Violates `services_name` where the name is taken.
pub async fn update(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
    name: Option<&str>,
    description: Option<Option<&str>>,
) -> Result<Option<Service>, DatabaseError> {
    let sql = "
        update services
        set name = coalesce($3, name), description = case when $4 then $5 else description end, updated_at = now()
        where application_id = $1 and id = $2
        returning id, application_id, name, description,
            to_char(created_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as created_at,
            to_char(updated_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as updated_at";
    let query = sqlx::query_as(sql).bind(application.as_str()).bind(id).bind(name);
    let query = query.bind(description.is_some()).bind(description.flatten());
    Ok(query.fetch_optional(executor).await?)
}

/// Removes a service from the registry, and no document; whether it was there.
///
/// # Errors
/// Only those of the database.
pub async fn delete(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    id: &str,
) -> Result<bool, DatabaseError> {
    let sql = "delete from services where application_id = $1 and id = $2";
    let query = sqlx::query(sql).bind(application.as_str()).bind(id);
    Ok(query.execute(executor).await?.rows_affected() > 0)
}
