//! What the registry of topics, in PostgreSQL, says of histories.

use crate::error::RedisError;
use event_log::TopicKey;
use shared_types::{AppId, Scope, TopicName};
use sqlx::{PgPool, Row};
use std::{collections::HashMap, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The topics whose history has a length of its own.
///
/// # Errors
/// `Unavailable` where PostgreSQL does not answer.
pub async fn own_histories(pool: &PgPool) -> Result<HashMap<TopicKey, Duration>, RedisError> {
    let query = sqlx::query(
        "select application_id, environment, name, history_seconds from topics where history_seconds is not null",
    )
    .fetch_all(pool);
    let failed = |error: sqlx::Error| RedisError::Unavailable(format!("the registry of topics: {error}"));
    let rows = match tokio::time::timeout(TIMEOUT, query).await {
        Ok(rows) => rows.map_err(failed)?,
        Err(_) => return Err(RedisError::Unavailable("the registry of topics does not answer".to_owned())),
    };
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
