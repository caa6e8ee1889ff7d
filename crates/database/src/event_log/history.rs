//! Reads by topic: heads and pages of history.

use super::{ask, plan::Head, rows, within, writer::Command};
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
    stored_head(&pool, commands, &key).await.map(|head| head.position)
}

async fn stored_head(
    pool: &PgPool,
    commands: mpsc::Sender<Command>,
    key: &TopicKey,
) -> Result<Head, LogError> {
    if let Some(head) = find_head(pool, key).await? {
        return Ok(head);
    }
    ask(commands, |reply| Command::Ensure { keys: vec![key.clone()], reply }).await?;
    find_head(pool, key).await?.ok_or_else(|| LogError::Internal("no head for a topic".to_owned()))
}

async fn find_head(pool: &PgPool, key: &TopicKey) -> Result<Option<Head>, LogError> {
    let query = sqlx::query(
        "select id, epoch, last_offset from event_log_topics \
         where application_id = $1 and environment = $2 and topic = $3 and is_current",
    )
    .bind(key.scope.application().as_str())
    .bind(key.scope.environment().as_str())
    .bind(key.topic.as_str())
    .fetch_optional(pool);
    let row = within(TIMEOUT, query).await?;
    row.map(|row| {
        let offset: i64 = row.try_get("last_offset")?;
        let position = Position::new(row.try_get::<&str, _>("epoch")?, offset.unsigned_abs());
        Ok(Head { id: row.try_get("id")?, position })
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
    let Head { id, position: head } = stored_head(&pool, commands, &key).await?;
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
    let span = Span { key: &key, id, epoch: &head.epoch, after, until };
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
    /// The number that stands for topic and epoch.
    id: i64,
    epoch: &'a Arc<str>,
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
            from (select topic_offset, event_id, source, event_type, payload, metadata from event_log \
                  where topic_id = $1 and topic_offset > $2 and topic_offset <= $3 \
                  order by topic_offset limit $4) page \
         ) sized where number = 1 or total <= $5 order by topic_offset";
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
            from (select topic_offset, event_id, source, event_type, payload, metadata from event_log \
                  where topic_id = $1 and topic_offset > $2 and topic_offset <= $3 \
                  order by topic_offset desc limit $4) page \
         ) sized where number = 1 or total <= $5 order by topic_offset";
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
        .bind(span.id)
        .bind(span.after as i64)
        .bind(span.until as i64)
        .bind(limit as i64)
        .bind(bytes as i64)
        .fetch_all(pool);
    let found = within(TIMEOUT, query).await?;
    found
        .iter()
        .map(|row| rows::event_of(row, span.key.clone(), span.epoch))
        .collect::<Result<_, _>>()
        .map_err(super::failed)
}
