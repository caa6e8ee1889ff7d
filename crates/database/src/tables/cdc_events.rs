//! `cdc_events`: row changes that a mapping looked at, and what became of each.
//!
//! Written in batches off the way of the events; [`record`] takes rows of several scopes, which carry theirs.

use crate::DatabaseError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared_types::{Operation, Scope};
use sqlx::{FromRow, PgExecutor, types::Json};
use std::time::Duration;

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

/// A change to be written down.
#[derive(Clone, Debug)]
pub struct NewCdcEvent {
    /// Whose mappings looked at it.
    pub scope: Scope,
    /// What makes the position unique.
    pub source: std::sync::Arc<str>,
    /// The commit's place in the log.
    pub lsn: u64,
    /// The change's number within the transaction.
    pub ordinal: u64,
    /// `table`, or `schema.table` outside `public`.
    pub table: String,
    /// What happened.
    pub operation: Operation,
    /// The row's key as a JSON object, where it is known.
    pub key: Option<String>,
    /// What each mapping made of it, at least one.
    pub results: Vec<MappingResult>,
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

#[derive(FromRow)]
struct Stored {
    id: i64,
    table_name: String,
    operation: String,
    outcome: String,
    key: Option<Json<Box<RawValue>>>,
    results: Json<Vec<MappingResult>>,
    lsn: i64,
    ordinal: i64,
    timestamp: i64,
}

impl From<Stored> for CdcEvent {
    fn from(row: Stored) -> Self {
        let lsn = row.lsn.cast_unsigned();
        Self {
            id: row.id,
            table: row.table_name,
            operation: row.operation,
            outcome: row.outcome,
            key: row.key.map(|key| key.0),
            results: row.results.0,
            lsn: format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF),
            ordinal: row.ordinal,
            timestamp: row.timestamp,
        }
    }
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

/// Writes changes down, at most 1,000 a call; those that are there already, and those of scopes that are gone, are
/// passed over. Answers how many were new.
///
/// # Errors
/// Only those of the database.
pub async fn record(executor: impl PgExecutor<'_>, events: &[NewCdcEvent]) -> Result<u64, DatabaseError> {
    let sql = "
        insert into cdc_events (application_id, environment, source, lsn, ordinal, table_name, operation, outcome,
            key, results, mapping_ids, committed_at)
        select new.application_id, new.environment, source, lsn, ordinal, table_name, operation, outcome, key::json,
            results::json, array(select result ->> 'mappingId' from json_array_elements(results::json) result),
            to_timestamp(commit_ms / 1000.0)
        from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
            $8::text[], $9::text[], $10::text[], $11::bigint[]) with ordinality as new (application_id, environment,
            source, lsn, ordinal, table_name, operation, outcome, key, results, commit_ms, place)
        join environments using (application_id, environment)
        order by place
        on conflict on constraint cdc_events_once do nothing";
    let column = |value: fn(&NewCdcEvent) -> String| events.iter().map(value).collect::<Vec<_>>();
    let number = |value: fn(&NewCdcEvent) -> u64| {
        events.iter().map(|event| value(event).cast_signed()).collect::<Vec<i64>>()
    };
    let results = events.iter().map(|event| serde_json::to_string(&event.results).unwrap_or_default());
    let done = sqlx::query(sql)
        .bind(column(|event| event.scope.application().to_string()))
        .bind(column(|event| event.scope.environment().to_string()))
        .bind(column(|event| event.source.to_string()))
        .bind(number(|event| event.lsn))
        .bind(number(|event| event.ordinal))
        .bind(column(|event| event.table.clone()))
        .bind(column(|event| event.operation.to_string()))
        .bind(column(|event| event.outcome().as_str().to_owned()))
        .bind(events.iter().map(|event| event.key.clone()).collect::<Vec<_>>())
        .bind(results.collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.commit_ms).collect::<Vec<_>>())
        .execute(executor)
        .await?;
    Ok(done.rows_affected())
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
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    query: &CdcEventQuery,
    limit: i64,
) -> Result<Vec<CdcEvent>, DatabaseError> {
    let sql = "
        select id, table_name, operation, outcome, key, results, lsn, ordinal,
            (extract(epoch from committed_at) * 1000)::bigint as timestamp
        from cdc_events
        where application_id = $1 and environment = $2 and ($3::text is null or table_name = $3)
            and ($4::text is null or operation = $4) and ($5::text is null or outcome = $5)
            and ($6::text is null or $6 = any (mapping_ids)) and ($7::bigint is null or id < $7)
        order by id desc limit $8";
    let rows: Vec<Stored> = sqlx::query_as(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(&query.table)
        .bind(query.operation.map(|operation| operation.to_string()))
        .bind(query.outcome.map(Outcome::as_str))
        .bind(&query.mapping)
        .bind(query.before)
        .bind(limit)
        .fetch_all(executor)
        .await?;
    Ok(rows.into_iter().map(CdcEvent::from).collect())
}

/// Removes what is older than `age`, at most 5,000 changes a call, of all scopes; answers how many.
///
/// # Errors
/// Only those of the database.
pub async fn remove_older(executor: impl PgExecutor<'_>, age: Duration) -> Result<u64, DatabaseError> {
    let sql = "
        delete from cdc_events where ctid = any (array(
            select ctid from cdc_events where recorded_at < now() - make_interval(secs => $1)
            order by recorded_at limit 5000))";
    Ok(sqlx::query(sql).bind(age.as_secs_f64()).execute(executor).await?.rows_affected())
}
