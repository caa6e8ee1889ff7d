//! Subscriptions of mappings, whether a scope's target is to be read, and what its reader says of itself.
//!
//! [`version`] and [`stopped`] belong to no scope; [`stopped`] answers scopes.

use crate::DatabaseError;
use serde::{Deserialize, Serialize};
use shared_types::{AppId, MappingId, Scope, SubscriptionId};
use sqlx::{FromRow, PgExecutor, types::Json};

/// The subscription of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CdcSubscription {
    /// `sub_…`.
    pub id: String,
    /// Its mapping.
    pub mapping_id: String,
    /// Whether the mapping is followed.
    pub active: bool,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
}

/// What a reader does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReaderState {
    /// It was told to stop, or has nothing to read.
    #[default]
    Stopped,
    /// It connects, or waits before it tries again.
    Connecting,
    /// It reads.
    Streaming,
    /// It cannot read; `message` says why and `cure` what helps.
    Error,
}

impl ReaderState {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Connecting => "connecting",
            Self::Streaming => "streaming",
            Self::Error => "error",
        }
    }
}

/// What became of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MappingState {
    /// Not yet: what is committed now may be missed.
    #[default]
    Pending,
    /// Everything that is committed from now on is looked at.
    Live,
    /// It cannot be followed; the message says why.
    Error,
}

/// A mapping in its reader's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingStatus {
    /// Which.
    pub mapping_id: String,
    /// Its table.
    pub table: String,
    /// How it stands.
    pub state: MappingState,
    /// A stable code of what is wrong (`NOT_PUBLISHED`, `PRIVILEGE`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Changes that were lost with a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Why.
    pub reason: String,
    /// When it was noticed, Unix milliseconds.
    pub noticed_at: i64,
    /// Up to where changes had been confirmed, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_lsn: Option<String>,
    /// From where changes are read again.
    pub to_lsn: String,
}

/// The status of the reader of a scope's target.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReaderStatus {
    /// What it does.
    pub state: ReaderState,
    /// A stable code of what is wrong (`WAL_LEVEL`, `PRIVILEGE`, …).
    pub code: Option<String>,
    /// What is wrong, for a person.
    pub message: Option<String>,
    /// What helps.
    pub cure: Option<String>,
    /// The replication slot.
    pub slot: Option<String>,
    /// The publication.
    pub publication: Option<String>,
    /// Write-ahead log that is not confirmed, in bytes.
    pub lag_bytes: Option<i64>,
    /// Write-ahead log that the target keeps for the slot, confirmed or not, in bytes.
    pub retained_bytes: Option<i64>,
    /// The same as a share of what it may keep (`max_slot_wal_keep_size`); past 1 changes are lost.
    pub retained_share: Option<f64>,
    /// Events that wait in the platform's database, because the event log does not take them.
    pub spilled_events: i64,
    /// Their size in bytes.
    pub spilled_bytes: i64,
    /// Seconds from a commit to its events' append.
    pub lag_seconds: Option<f64>,
    /// Up to where everything is appended.
    pub last_lsn: Option<String>,
    /// Row changes read, a second.
    pub rows_per_second: f64,
    /// Row changes read since the reader started.
    pub rows_total: i64,
    /// Events made since the reader started.
    pub events_total: i64,
    /// The scope's mappings.
    pub mappings: Vec<MappingStatus>,
    /// The last gap.
    pub gap: Option<Gap>,
    /// Which process reads; `None` where none does.
    pub leader: Option<String>,
    /// Unix milliseconds; old where no process runs the reader.
    pub updated_at: i64,
}

#[derive(FromRow)]
struct StatusRow {
    state: String,
    code: Option<String>,
    message: Option<String>,
    cure: Option<String>,
    slot: Option<String>,
    publication: Option<String>,
    lag_bytes: Option<i64>,
    retained_bytes: Option<i64>,
    retained_share: Option<f64>,
    spilled_events: i64,
    spilled_bytes: i64,
    lag_seconds: Option<f64>,
    last_lsn: Option<String>,
    rows_per_second: f64,
    rows_total: i64,
    events_total: i64,
    mappings: Json<Vec<MappingStatus>>,
    gap: Option<Json<Gap>>,
    leader: Option<String>,
    updated_at: i64,
}

impl From<StatusRow> for ReaderStatus {
    fn from(row: StatusRow) -> Self {
        let states = [ReaderState::Connecting, ReaderState::Streaming, ReaderState::Error];
        Self {
            state: states.into_iter().find(|state| state.as_str() == row.state).unwrap_or_default(),
            code: row.code,
            message: row.message,
            cure: row.cure,
            slot: row.slot,
            publication: row.publication,
            lag_bytes: row.lag_bytes,
            retained_bytes: row.retained_bytes,
            retained_share: row.retained_share,
            spilled_events: row.spilled_events,
            spilled_bytes: row.spilled_bytes,
            lag_seconds: row.lag_seconds,
            last_lsn: row.last_lsn,
            rows_per_second: row.rows_per_second,
            rows_total: row.rows_total,
            events_total: row.events_total,
            mappings: row.mappings.0,
            gap: row.gap.map(|gap| gap.0),
            leader: row.leader,
            updated_at: row.updated_at,
        }
    }
}

/// The status of a scope's reader; `None` where none has ever run.
///
/// # Errors
/// Only those of the database.
pub async fn status(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
) -> Result<Option<ReaderStatus>, DatabaseError> {
    let sql = "
        select state, code, message, cure, slot, publication, lag_bytes, lag_seconds, last_lsn, rows_per_second,
            rows_total, events_total, mappings, gap, leader, retained_bytes, retained_share,
            spilled_events, spilled_bytes, (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from cdc_reader_status where application_id = $1 and environment = $2";
    let query = sqlx::query_as::<_, StatusRow>(sql).bind(scope.application().as_str());
    Ok(query.bind(scope.environment().as_str()).fetch_optional(executor).await?.map(ReaderStatus::from))
}

/// Who writes a status, and over whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWriter {
    /// The leader, over any.
    Leader,
    /// A process that leads nothing, only over a status that nobody has renewed for 5 seconds, or with which nobody reads
    /// any more.
    Bystander,
}

/// Writes the status of a scope's reader, and answers whether it was this writer's to write; a gap stays until another
/// takes its place.
///
/// # Errors
/// Violates `cdc_reader_status_scope` where the application is gone.
pub async fn write_status(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    writer: StatusWriter,
    status: &ReaderStatus,
) -> Result<bool, DatabaseError> {
    let sql = "
        insert into cdc_reader_status as s (application_id, environment, state, code, message, cure, slot,
            publication, lag_bytes, lag_seconds, last_lsn, rows_per_second, rows_total, events_total, mappings,
            gap, leader, retained_bytes, retained_share, spilled_events, spilled_bytes, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $19, $20, $21, $22, now())
        on conflict (application_id, environment) do update set
            state = excluded.state, code = excluded.code, message = excluded.message, cure = excluded.cure,
            slot = coalesce(excluded.slot, s.slot),
            publication = coalesce(excluded.publication, s.publication),
            lag_bytes = excluded.lag_bytes, lag_seconds = excluded.lag_seconds,
            last_lsn = coalesce(excluded.last_lsn, s.last_lsn), rows_per_second = excluded.rows_per_second,
            rows_total = excluded.rows_total, events_total = excluded.events_total,
            mappings = excluded.mappings, gap = coalesce(excluded.gap, s.gap), leader = excluded.leader,
            retained_bytes = excluded.retained_bytes, retained_share = excluded.retained_share,
            spilled_events = excluded.spilled_events, spilled_bytes = excluded.spilled_bytes,
            updated_at = excluded.updated_at
        where $18 or s.updated_at < now() - interval '5 seconds'
            or (s.state = 'stopped' and s.leader is null
                and (s.state, s.code, s.message) is distinct from (excluded.state, excluded.code, excluded.message))";
    let written = sqlx::query(sql)
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(status.state.as_str())
        .bind(&status.code)
        .bind(&status.message)
        .bind(&status.cure)
        .bind(&status.slot)
        .bind(&status.publication)
        .bind(status.lag_bytes)
        .bind(status.lag_seconds)
        .bind(&status.last_lsn)
        .bind(status.rows_per_second)
        .bind(status.rows_total)
        .bind(status.events_total)
        .bind(Json(&status.mappings))
        .bind(status.gap.as_ref().map(Json))
        .bind(&status.leader)
        .bind(writer == StatusWriter::Leader)
        .bind(status.retained_bytes)
        .bind(status.retained_share)
        .bind(status.spilled_events)
        .bind(status.spilled_bytes)
        .execute(executor)
        .await?;
    Ok(written.rows_affected() > 0)
}

/// Says whether a scope's target is to be read.
///
/// # Errors
/// Violates `cdc_desired_scope` where the application is gone.
pub async fn set_desired(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    running: bool,
) -> Result<(), DatabaseError> {
    let sql = "
        insert into cdc_desired (application_id, environment, running) values ($1, $2, $3)
        on conflict (application_id, environment) do update set running = excluded.running, updated_at = now()";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    query.bind(running).execute(executor).await?;
    Ok(())
}

/// Whether a scope's target is to be read; so it is where nothing was said.
///
/// # Errors
/// Only those of the database.
pub async fn desired(executor: impl PgExecutor<'_>, scope: &Scope) -> Result<bool, DatabaseError> {
    let sql = "select running from cdc_desired where application_id = $1 and environment = $2";
    let query = sqlx::query_scalar(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.fetch_optional(executor).await?.unwrap_or(true))
}

/// All scopes whose target is not to be read.
///
/// # Errors
/// Only those of the database.
pub async fn stopped(executor: impl PgExecutor<'_>) -> Result<Vec<Scope>, DatabaseError> {
    let sql = "select application_id, environment from cdc_desired where not running";
    let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(executor).await?;
    let scope = |(application, environment): (String, String)| {
        Some(Scope::new(AppId::from_stored(application), environment.parse().ok()?))
    };
    Ok(rows.into_iter().filter_map(scope).collect())
}

/// A number that grows with every change of a mapping or a subscription.
///
/// # Errors
/// Only those of the database.
pub async fn version(executor: impl PgExecutor<'_>) -> Result<i64, DatabaseError> {
    Ok(sqlx::query_scalar("select version from cdc_version").fetch_one(executor).await?)
}

/// Subscribes to a mapping, or answers the subscription that it has.
///
/// # Errors
/// Violates `cdc_subscriptions_mapping` where there is no such mapping.
pub async fn subscribe(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    mapping: &MappingId,
) -> Result<CdcSubscription, DatabaseError> {
    let sql = "
        insert into cdc_subscriptions (application_id, environment, id, mapping_id) values ($1, $2, $3, $4)
        on conflict on constraint cdc_subscriptions_one_a_mapping do update set mapping_id = excluded.mapping_id
        returning id, mapping_id, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    let query = query.bind(SubscriptionId::generate().as_str().to_owned()).bind(mapping.as_str());
    Ok(query.fetch_one(executor).await?)
}

/// The subscriptions behind `after` by id, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn subscriptions(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<CdcSubscription>, DatabaseError> {
    let sql = "
        select id, mapping_id, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from cdc_subscriptions where application_id = $1 and environment = $2 and id > $3 order by id limit $4";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(after.unwrap_or_default()).bind(limit).fetch_all(executor).await?)
}

/// One subscription.
///
/// # Errors
/// Only those of the database.
pub async fn subscription(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    id: &str,
) -> Result<Option<CdcSubscription>, DatabaseError> {
    let sql = "
        select id, mapping_id, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at
        from cdc_subscriptions where application_id = $1 and environment = $2 and id = $3";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(id).fetch_optional(executor).await?)
}

/// Activates or deactivates a subscription; `None` where there is none of this id.
///
/// # Errors
/// Only those of the database.
pub async fn set_active(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    subscription: &str,
    active: bool,
) -> Result<Option<CdcSubscription>, DatabaseError> {
    let sql = "
        update cdc_subscriptions set active = $4, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3
        returning id, mapping_id, active,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from updated_at) * 1000)::bigint as updated_at";
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(subscription).bind(active).fetch_optional(executor).await?)
}

/// System identifier and name of the platform's own database.
///
/// # Errors
/// Only those of the database.
pub async fn own_identity(executor: impl PgExecutor<'_>) -> Result<(String, String), DatabaseError> {
    let sql = "select system_identifier::text, current_database()::text from pg_control_system()";
    Ok(sqlx::query_as(sql).fetch_one(executor).await?)
}
