//! Reads by topic: heads and pages of history.

use super::{ask, rows, within, writer::Command};
use event_log::{HistoryPage, HistoryQuery, LogError, Reach, Start, StoredEvent, TopicKey};
use shared_types::Position;
use sqlx::{PgPool, Row};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The topic's head; a topic without one gets it from the writer.
pub async fn head(
    pool: PgPool,
    commands: mpsc::Sender<Command>,
    key: TopicKey,
) -> Result<Position, LogError> {
    if let Some(head) = stored_head(&pool, &key).await? {
        return Ok(head);
    }
    let mut heads = ask(commands, |reply| Command::Ensure { keys: vec![key], reply }).await?;
    heads.pop().ok_or_else(|| LogError::Internal("no head for a topic".to_owned()))
}

async fn stored_head(pool: &PgPool, key: &TopicKey) -> Result<Option<Position>, LogError> {
    let query = sqlx::query(
        "select epoch, last_offset from event_log_topics \
         where application_id = $1 and environment = $2 and topic = $3",
    )
    .bind(key.scope.application().as_str())
    .bind(key.scope.environment().as_str())
    .bind(key.topic.as_str())
    .fetch_optional(pool);
    let row = within(TIMEOUT, query).await?;
    row.map(|row| {
        let offset: i64 = row.try_get("last_offset")?;
        Ok(Position::new(row.try_get::<&str, _>("epoch")?, offset.unsigned_abs()))
    })
    .transpose()
    .map_err(super::failed)
}

/// A page of history, as the port describes it.
pub async fn page(
    pool: PgPool,
    commands: mpsc::Sender<Command>,
    key: TopicKey,
    query: HistoryQuery,
) -> Result<HistoryPage, LogError> {
    let head = head(pool.clone(), commands, key.clone()).await?;
    let until = query.until.unwrap_or(head.offset).min(head.offset);
    let limit = query.limit;
    let (after, reach) = match &query.start {
        Start::Latest => (until.saturating_sub(limit.events as u64), Reach::Connected),
        Start::After(position) if position.epoch != head.epoch => (0, Reach::OtherEpoch),
        Start::After(position) if position.offset > head.offset => (head.offset, Reach::BeyondHead),
        Start::After(position) => (position.offset, Reach::Connected),
    };
    if after >= until {
        return Ok(HistoryPage { reach, head, events: Vec::new() });
    }
    let span = Span { key: &key, epoch: &head.epoch, after, until };
    let events = match query.start {
        Start::Latest => latest(&pool, &span, limit.events, limit.bytes).await?,
        Start::After(_) => forward(&pool, &span, limit.events, limit.bytes).await?,
    };
    let connected = events.first().is_some_and(|event| event.position.offset == after + 1);
    let reach = match (reach, &query.start) {
        (Reach::Connected, Start::After(_)) if !connected => Reach::Truncated,
        (reach, _) => reach,
    };
    Ok(HistoryPage { reach, head, events })
}

/// The part of a topic's history behind `after` up to `until`.
struct Span<'a> {
    key: &'a TopicKey,
    epoch: &'a str,
    after: u64,
    until: u64,
}

async fn forward(
    pool: &PgPool,
    span: &Span<'_>,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Arc<StoredEvent>>, LogError> {
    const SQL: &str = "select * from ( \
            select *, sum(octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128) \
                      over (order by topic_offset) as total, row_number() over (order by topic_offset) as number \
            from (select application_id, environment, topic, epoch, topic_offset, event_id, source, event_type, \
                         payload, metadata from event_log \
                  where application_id = $1 and environment = $2 and topic = $3 and epoch = $4 \
                    and topic_offset > $5 and topic_offset <= $6 \
                  order by topic_offset limit $7) page \
         ) sized where number = 1 or total <= $8 order by topic_offset";
    fetch(pool, SQL, span, limit, bytes).await
}

async fn latest(
    pool: &PgPool,
    span: &Span<'_>,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Arc<StoredEvent>>, LogError> {
    const SQL: &str = "select * from ( \
            select *, sum(octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128) \
                      over (order by topic_offset desc) as total, \
                      row_number() over (order by topic_offset desc) as number \
            from (select application_id, environment, topic, epoch, topic_offset, event_id, source, event_type, \
                         payload, metadata from event_log \
                  where application_id = $1 and environment = $2 and topic = $3 and epoch = $4 \
                    and topic_offset > $5 and topic_offset <= $6 \
                  order by topic_offset desc limit $7) page \
         ) sized where number = 1 or total <= $8 order by topic_offset";
    fetch(pool, SQL, span, limit, bytes).await
}

async fn fetch(
    pool: &PgPool,
    sql: &'static str,
    span: &Span<'_>,
    limit: usize,
    bytes: usize,
) -> Result<Vec<Arc<StoredEvent>>, LogError> {
    let query = sqlx::query(sql)
        .bind(span.key.scope.application().as_str())
        .bind(span.key.scope.environment().as_str())
        .bind(span.key.topic.as_str())
        .bind(span.epoch)
        .bind(span.after as i64)
        .bind(span.until as i64)
        .bind(limit as i64)
        .bind(bytes as i64)
        .fetch_all(pool);
    let found = within(TIMEOUT, query).await?;
    found.iter().map(rows::event).collect::<Result<_, _>>().map_err(super::failed)
}
