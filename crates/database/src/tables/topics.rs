//! `topics`: the registered topics of a scope.

use crate::DatabaseError;
use serde::Serialize;
use shared_types::{Scope, TopicName};
use sqlx::{FromRow, PgExecutor};

/// A registered topic.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Topic {
    /// `session.status`.
    pub name: String,
    /// What its events say.
    pub description: String,
    /// The team or service that answers for it.
    pub owner: String,
    /// The schema version that events are checked against.
    pub active_schema_version: Option<i32>,
    /// How long its events are kept, in seconds; as long as the server keeps every topic's where absent.
    pub history_seconds: Option<i32>,
    /// Its application.
    pub application_id: String,
    /// Its environment.
    pub environment: String,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

/// What a new topic is made of.
#[derive(Clone, Debug)]
pub struct NewTopic<'a> {
    /// Its name, checked.
    pub name: &'a TopicName,
    /// What its events say.
    pub description: &'a str,
    /// Who answers for it.
    pub owner: &'a str,
    /// How long its events are kept, in seconds, 60 to 31,536,000.
    pub history_seconds: Option<i32>,
}

/// What to change of a topic: what is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopicChange<'a> {
    /// What its events say.
    pub description: Option<&'a str>,
    /// Who answers for it.
    pub owner: Option<&'a str>,
    /// How long its events are kept, in seconds; `Some(None)` for as long as the server keeps every topic's.
    pub history_seconds: Option<Option<i32>>,
}

/// Inserts a topic.
///
/// # Errors
/// Violates `topics_pkey` where the name is taken, `topics_scope` where the application is gone.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    topic: &NewTopic<'_>,
) -> Result<Topic, DatabaseError> {
    let sql = "
        insert into topics (application_id, environment, name, description, owner, history_seconds)
        values ($1, $2, $3, $4, $5, $6)
        returning name, description, owner, active_schema_version, history_seconds, application_id, environment,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    let query = query.bind(topic.name.as_str()).bind(topic.description).bind(topic.owner);
    let query = query.bind(topic.history_seconds);
    Ok(query.fetch_one(executor).await?)
}

/// One topic.
///
/// # Errors
/// Only those of the database.
pub async fn find(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    name: &str,
) -> Result<Option<Topic>, DatabaseError> {
    let sql = "
        select name, description, owner, active_schema_version, history_seconds, application_id, environment,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from topics where application_id = $1 and environment = $2 and name = $3";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(name).fetch_optional(executor).await?)
}

/// Whether every one of `names` is registered; answers the first that is not.
///
/// # Errors
/// Only those of the database.
pub async fn first_unregistered(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    names: &[String],
) -> Result<Option<String>, DatabaseError> {
    let sql = "
        select wanted.name from unnest($3::text[]) with ordinality as wanted (name, place)
        where not exists (
            select from topics t where t.application_id = $1 and t.environment = $2 and t.name = wanted.name)
        order by wanted.place limit 1";
    let query = sqlx::query_scalar(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(names).fetch_optional(executor).await?)
}

/// Which of `names` may not be used: those that are not registered, where the policy asks for it.
///
/// # Errors
/// Only those of the database.
pub async fn forbidden(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    names: &[String],
) -> Result<Vec<String>, DatabaseError> {
    let sql = "
        select wanted.name from unnest($3::text[]) as wanted (name)
        where exists (select from applications a
                where a.id = $1 and a.config -> 'topicPolicy' ->> $2 = 'registered')
            and not exists (select from topics t
                where t.application_id = $1 and t.environment = $2 and t.name = wanted.name)";
    let query = sqlx::query_scalar(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(names).fetch_all(executor).await?)
}

/// The topics behind `after` by name, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Topic>, DatabaseError> {
    let sql = "
        select name, description, owner, active_schema_version, history_seconds, application_id, environment,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from topics where application_id = $1 and environment = $2 and name > $3
        order by name limit $4";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(after.unwrap_or_default()).bind(limit).fetch_all(executor).await?)
}

/// Changes what is given; `None` where there is no such topic.
///
/// # Errors
/// Only those of the database.
pub async fn update(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    name: &str,
    change: &TopicChange<'_>,
) -> Result<Option<Topic>, DatabaseError> {
    let sql = "
        update topics
        set description = coalesce($4, description), owner = coalesce($5, owner),
            history_seconds = case when $6 then $7 else history_seconds end, updated_at = now()
        where application_id = $1 and environment = $2 and name = $3
        returning name, description, owner, active_schema_version, history_seconds, application_id, environment,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    let query = query.bind(name).bind(change.description).bind(change.owner);
    let query = query.bind(change.history_seconds.is_some()).bind(change.history_seconds.flatten());
    Ok(query.fetch_optional(executor).await?)
}

/// Removes a topic; whether it was there.
///
/// # Errors
/// Only those of the database.
pub async fn delete(executor: impl PgExecutor<'_>, scope: &Scope, name: &str) -> Result<bool, DatabaseError> {
    let sql = "delete from topics where application_id = $1 and environment = $2 and name = $3";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(name).execute(executor).await?.rows_affected() > 0)
}
