//! How an event stands in a row.

use event_log::{StoredEvent, TopicKey};
use shared_types::{AppId, EventId, Position, RawObject, Scope, TopicName};
use sqlx::{Row, postgres::PgRow};
use std::sync::Arc;

/// Reads the topic's key from `application_id`, `environment` and `topic`.
pub fn key(row: &PgRow) -> Result<TopicKey, sqlx::Error> {
    let application: &str = row.try_get("application_id")?;
    let environment: &str = row.try_get("environment")?;
    let topic: &str = row.try_get("topic")?;
    let environment = environment.parse().map_err(decode)?;
    let topic = TopicName::parse(topic).map_err(decode)?;
    Ok(TopicKey { scope: Scope::new(AppId::from_stored(application), environment), topic })
}

/// Reads a whole event.
pub fn event(row: &PgRow) -> Result<Arc<StoredEvent>, sqlx::Error> {
    let source: &str = row.try_get("source")?;
    let offset: i64 = row.try_get("topic_offset")?;
    Ok(Arc::new(StoredEvent {
        key: key(row)?,
        position: Position::new(row.try_get::<&str, _>("epoch")?, offset.unsigned_abs()),
        id: EventId::from_stored(row.try_get::<&str, _>("event_id")?),
        source: source.parse().map_err(decode)?,
        kind: row.try_get::<&str, _>("event_type")?.into(),
        payload: RawObject::from_trusted(row.try_get::<&str, _>("payload")?),
        metadata: RawObject::from_trusted(row.try_get::<&str, _>("metadata")?),
    }))
}

/// A stored value that breaks its own rule.
pub fn decode(problem: shared_types::Problem) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(problem))
}
