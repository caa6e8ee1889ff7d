//! `cdc_events`: row changes that a mapping looked at, and what became of each.
//!
//! Written in batches off the way of the events, many changes to a row; [`record`] takes changes of several scopes,
//! which carry theirs.

mod chunk;

use crate::{DatabaseError, Pool};
use chunk::Chunk;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared_types::{EventId, MappingId, Operation, Scope, TopicName, mapping::TableName};
use sqlx::{PgConnection, PgExecutor};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

/// Chunks that are read at a time.
const ROUND: i64 = 16;

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every mapping's rules held it back.
    Filtered,
    /// No mapping made an event of it, and at least one could not be evaluated.
    Failed,
    /// At least one mapping made an event of it.
    Routed,
}

impl Outcome {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Failed => "failed",
            Self::Routed => "routed",
        }
    }
}

/// What one mapping made of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingResult {
    /// Which.
    pub mapping_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Where the event went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The event's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Which rule held it back, or why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What one mapping made of a change that is to be written down.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub mapping: MappingId,
    /// What became of it.
    pub outcome: Outcome,
    /// Where the event went.
    pub topic: Option<TopicName>,
    /// The event's id, one of ours.
    pub event_id: Option<EventId>,
    /// Which rule held it back, or why it could not be evaluated.
    pub reason: Option<Cow<'static, str>>,
}

/// A change to be written down.
#[derive(Clone, Debug)]
pub struct NewCdcEvent {
    /// Whose mappings looked at it.
    pub scope: Scope,
    /// What makes the position unique.
    pub source: Arc<str>,
    /// The commit's place in the log.
    pub lsn: u64,
    /// The change's number within the transaction.
    pub ordinal: u64,
    /// Of which table.
    pub table: TableName,
    /// What happened.
    pub operation: Operation,
    /// The row's key as a JSON object, where it is known.
    pub key: Option<String>,
    /// What each mapping made of it, at least one.
    pub results: Vec<Verdict>,
    /// When it was committed, Unix milliseconds.
    pub commit_ms: i64,
}

/// A change as it was written down.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CdcEvent {
    /// Grows with every change of the scope.
    pub id: i64,
    /// `table`, or `schema.table` outside `public`.
    pub table: String,
    /// `insert`, `update` or `delete`.
    pub operation: String,
    /// What became of it.
    pub outcome: String,
    /// The row's key, where its replica identity tells it.
    pub key: Option<Box<RawValue>>,
    /// What each mapping made of it.
    pub results: Vec<MappingResult>,
    /// The commit's place in the target's log.
    pub lsn: String,
    /// The change's number within its transaction.
    pub ordinal: i64,
    /// When it was committed, Unix milliseconds.
    pub timestamp: i64,
}

/// Which changes are asked for.
#[derive(Clone, Debug, Default)]
pub struct CdcEventQuery {
    /// Only of this table.
    pub table: Option<String>,
    /// Only this operation.
    pub operation: Option<Operation>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only those that this mapping looked at.
    pub mapping: Option<String>,
    /// Only before this id.
    pub before: Option<i64>,
}

/// Up to where a scope's changes are written down.
struct Mark {
    source: String,
    position: (u64, u64),
}

/// What one scope's changes come to.
struct Written<'a> {
    scope: &'a Scope,
    mark: Mark,
    chunks: Vec<Chunk<'a>>,
}

/// Writes changes down, those of each scope and source in the order of their positions; those that are there
/// already, and those of scopes that are gone, are passed over. Answers how many were new.
///
/// A crash of the database may lose what was written in its last moments: it does not wait for its disk.
///
/// # Errors
/// Only those of the database; nothing is written then.
pub async fn record(pool: &Pool, events: &[NewCdcEvent]) -> Result<u64, DatabaseError> {
    let mut by_scope: BTreeMap<&Scope, Vec<&NewCdcEvent>> = BTreeMap::new();
    for event in events {
        by_scope.entry(&event.scope).or_default().push(event);
    }
    let mut tx = pool.begin().await?;
    sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
    let mut written = Vec::new();
    for (scope, events) in by_scope {
        if let Some(mark) = lock(&mut tx, scope).await? {
            written.push(Written::new(scope, mark, &events));
        }
    }
    let mut recorded = 0;
    for scope in written {
        recorded += scope.store(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(recorded)
}

/// The scope's mark, which nobody else moves until the transaction ends; none where the scope is gone.
async fn lock(connection: &mut PgConnection, scope: &Scope) -> Result<Option<Mark>, DatabaseError> {
    let sql = "
        insert into cdc_events_marks as mark (application_id, environment, source, lsn, ordinal)
        select application_id, environment, '', 0, 0 from environments
        where application_id = $1 and environment = $2
        on conflict (application_id, environment) do update set source = mark.source
        returning source, lsn, ordinal";
    let row: Option<(String, i64, i64)> = sqlx::query_as(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|(source, lsn, ordinal)| Mark {
        source,
        position: (lsn.cast_unsigned(), ordinal.cast_unsigned()),
    }))
}

impl<'a> Written<'a> {
    fn new(scope: &'a Scope, mut mark: Mark, events: &[&'a NewCdcEvent]) -> Self {
        let mut chunks: Vec<Chunk<'a>> = Vec::new();
        for event in events {
            let position = (event.lsn, event.ordinal);
            if mark.source != *event.source {
                event.source.as_ref().clone_into(&mut mark.source);
            } else if position <= mark.position {
                continue;
            }
            mark.position = position;
            match chunks.last_mut() {
                Some(chunk) if !chunk.is_full() => chunk.push(event),
                _ => {
                    let mut chunk = Chunk::default();
                    chunk.push(event);
                    chunks.push(chunk);
                }
            }
        }
        Self { scope, mark, chunks }
    }

    /// Writes its chunks and moves its mark.
    async fn store(self, connection: &mut PgConnection) -> Result<u64, DatabaseError> {
        if self.chunks.is_empty() {
            return Ok(0);
        }
        let sql = "
            with moved as (
                update cdc_events_marks set source = $6, lsn = $7, ordinal = $8
                where application_id = $1 and environment = $2)
            insert into cdc_events (application_id, environment, size, shapes, changes)
            select $1, $2, size, shapes::jsonb, changes
            from unnest($3::smallint[], $4::text[], $5::text[]) with ordinality
                as new (size, shapes, changes, place)
            order by place";
        let sizes: Vec<i16> = self.chunks.iter().map(Chunk::size).collect();
        let recorded = sizes.iter().map(|size| u64::from(size.unsigned_abs())).sum();
        let (shapes, changes): (Vec<_>, Vec<_>) = self.chunks.into_iter().map(Chunk::finish).unzip();
        sqlx::query(sql)
            .bind(self.scope.application().as_str())
            .bind(self.scope.environment().as_str())
            .bind(sizes)
            .bind(shapes)
            .bind(changes)
            .bind(self.mark.source)
            .bind(self.mark.position.0.cast_signed())
            .bind(self.mark.position.1.cast_signed())
            .execute(connection)
            .await?;
        Ok(recorded)
    }
}

impl NewCdcEvent {
    /// What became of it, over all mappings.
    pub fn outcome(&self) -> Outcome {
        self.results.iter().map(|result| result.outcome).max().unwrap_or(Outcome::Filtered)
    }
}

/// The newest changes first, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    pool: &Pool,
    scope: &Scope,
    query: &CdcEventQuery,
    limit: i64,
) -> Result<Vec<CdcEvent>, DatabaseError> {
    // A chunk has a change of each of its shapes, so that this finds no chunk in vain.
    let sql = "
        select chunk, shapes::text, changes from cdc_events
        where application_id = $1 and environment = $2 and shapes @> $3 and chunk <= $4
        order by chunk desc limit $5";
    let containment = chunk::containment(query);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut found = Vec::new();
    let mut newest = query.before.map_or(i64::MAX, chunk::chunk_of);
    while found.len() < limit {
        let rows: Vec<(i64, String, String)> = sqlx::query_as(sql)
            .bind(scope.application().as_str())
            .bind(scope.environment().as_str())
            .bind(&containment)
            .bind(newest)
            .bind(ROUND)
            .fetch_all(pool)
            .await?;
        let Some((oldest, _, _)) = rows.last() else { break };
        newest = oldest - 1;
        for (number, shapes, changes) in &rows {
            if found.len() >= limit {
                break;
            }
            chunk::read((*number, shapes, changes), query, limit, &mut found)
                .map_err(|error| sqlx::Error::Decode(error.into()))?;
        }
    }
    Ok(found)
}

/// Removes what is older than `age`, at most 500 rows of many changes a call, of all scopes; answers how many
/// changes.
///
/// # Errors
/// Only those of the database.
pub async fn remove_older(executor: impl PgExecutor<'_>, age: Duration) -> Result<u64, DatabaseError> {
    let sql = "
        with gone as (
            delete from cdc_events where ctid = any (array(
                select ctid from cdc_events where recorded_at < now() - make_interval(secs => $1)
                order by recorded_at limit 500))
            returning size)
        select coalesce(sum(size), 0)::bigint from gone";
    let removed: i64 = sqlx::query_scalar(sql).bind(age.as_secs_f64()).fetch_one(executor).await?;
    Ok(removed.unsigned_abs())
}
