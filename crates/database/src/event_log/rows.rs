//! How an event stands in a row.

use event_log::{StoredEvent, TopicKey};
use shared_types::{AppId, EventId, Position, Problem, RawObject, Scope, Source, TopicName};
use sqlx::{Row, postgres::PgRow};
use std::sync::Arc;

/// Reads the topic's key from `application_id`, `environment` and `topic`.
pub fn key(row: &PgRow) -> Result<TopicKey, sqlx::Error> {
    let application: &str = row.try_get("application_id")?;
    let environment: &str = row.try_get("environment")?;
    let topic: &str = row.try_get("topic")?;
    let environment = environment.parse().map_err(decode)?;
    Ok(TopicKey {
        scope: Scope::new(AppId::from_stored(application), environment),
        topic: TopicName::from_stored(topic),
    })
}

/// Reads an event of `event_log` together with its topic's columns of `event_log_topics`.
pub fn event(row: &PgRow) -> Result<Arc<StoredEvent>, sqlx::Error> {
    event_of(row, key(row)?, &row.try_get::<&str, _>("epoch")?.into())
}

/// Reads an event whose topic and epoch are known.
pub fn event_of(row: &PgRow, key: TopicKey, epoch: &Arc<str>) -> Result<Arc<StoredEvent>, sqlx::Error> {
    let offset: i64 = row.try_get("topic_offset")?;
    Ok(Arc::new(StoredEvent {
        key,
        position: Position::new(epoch.clone(), offset.unsigned_abs()),
        id: EventId::from_stored(row.try_get::<&str, _>("event_id")?),
        source: source_of(row.try_get("source")?)?,
        kind: row.try_get::<&str, _>("event_type")?.into(),
        payload: RawObject::from_trusted(row.try_get::<&str, _>("payload")?),
        metadata: RawObject::from_trusted(row.try_get::<&str, _>("metadata")?),
    }))
}

/// The number that stands for a source; what has been given out never changes.
pub const fn source_code(source: Source) -> i16 {
    match source {
        Source::Database => 1,
        Source::Sync => 2,
        Source::Socket => 3,
    }
}

fn source_of(code: i16) -> Result<Source, sqlx::Error> {
    [Source::Database, Source::Sync, Source::Socket]
        .into_iter()
        .find(|source| source_code(*source) == code)
        .ok_or_else(|| sqlx::Error::Decode(format!("no source has the number {code}").into()))
}

/// A stored value that breaks its own rule.
pub fn decode(problem: Problem) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(problem))
}
