//! What PostgreSQL says of what the log keeps: the registry of topics of histories, and which sources have ended.

use crate::error::RedisError;
use event_log::TopicKey;
use shared_types::{AppId, Scope, TopicName};
use sqlx::{PgPool, Row};
use std::{collections::HashMap, future::Future, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long what an ended source has appended is recognized.
const SOURCES_SECONDS: f64 = 24.0 * 3600.0;

/// The topics whose history has a length of its own.
///
/// # Errors
/// `Unavailable` where PostgreSQL does not answer.
pub async fn own_histories(pool: &PgPool) -> Result<HashMap<TopicKey, Duration>, RedisError> {
    let query = sqlx::query(
        "select application_id, environment, name, history_seconds from topics where history_seconds is not null",
    )
    .fetch_all(pool);
    let rows = within(query).await?;
    let mut own = HashMap::new();
    for row in rows {
        let application: String = row.try_get("application_id").map_err(failed)?;
        let environment: String = row.try_get("environment").map_err(failed)?;
        let name: String = row.try_get("name").map_err(failed)?;
        let seconds: i32 = row.try_get("history_seconds").map_err(failed)?;
        // What was registered under rules that no longer hold has no history either.
        let (Ok(environment), Ok(topic)) = (environment.parse(), TopicName::parse(&name)) else { continue };
        let scope = Scope::new(AppId::from_stored(application), environment);
        own.insert(TopicKey { scope, topic }, Duration::from_secs(u64::from(seconds.unsigned_abs())));
    }
    Ok(own)
}

/// Sources that ended a day ago or longer, some at a time: nobody repeats anymore what they have appended. None as long
/// as anything is spilled, which may be of one of them, and may have been appended before.
///
/// # Errors
/// `Unavailable` where PostgreSQL does not answer.
pub async fn ended_sources(pool: &PgPool) -> Result<Vec<String>, RedisError> {
    let query = sqlx::query_scalar(
        "select source from event_log_ended_sources \
         where ended_at < now() - make_interval(secs => $1) and not exists (select from cdc_spills where events > 0) \
         order by source limit 1000",
    )
    .bind(SOURCES_SECONDS)
    .fetch_all(pool);
    within(query).await
}

/// Notes that nothing is remembered of `sources` any more.
///
/// # Errors
/// `Unavailable` where PostgreSQL does not answer.
pub async fn sources_forgotten(pool: &PgPool, sources: &[String]) -> Result<(), RedisError> {
    let query =
        sqlx::query("delete from event_log_ended_sources where source = any($1)").bind(sources).execute(pool);
    within(query).await.map(drop)
}

async fn within<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RedisError> {
    match tokio::time::timeout(TIMEOUT, query).await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(RedisError::Unavailable("PostgreSQL does not answer".to_owned())),
    }
}

fn failed(error: sqlx::Error) -> RedisError {
    RedisError::Unavailable(format!("PostgreSQL: {error}"))
}
