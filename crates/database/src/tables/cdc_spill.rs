//! `cdc_spills` and `cdc_spilled_events`: events of row changes that the event log does not take yet.
//!
//! A spill belongs to a target and not to a scope; its rows carry theirs. Numbers follow the order in which events were
//! spilled, because whoever writes holds the spill's row.

use crate::{DatabaseError, Pool};
use shared_types::{AppId, Environment, EventId, MappingId, RawObject, Scope, TopicName};
use sqlx::{FromRow, PgExecutor, Row, postgres::PgRow};

/// Which spill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillKey {
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// The slot's name.
    pub slot: String,
}

/// How much is spilled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct SpillSize {
    /// Events.
    pub events: i64,
    /// Bytes of payloads and metadata.
    pub bytes: i64,
}

/// An event that waits for the log.
#[derive(Clone, Debug)]
pub struct SpilledEvent {
    /// Whose topic.
    pub scope: Scope,
    /// The topic.
    pub topic: TopicName,
    /// The event's id.
    pub id: EventId,
    /// The event's type.
    pub kind: String,
    /// The payload.
    pub payload: RawObject,
    /// Further members of `metadata`, as they stand in the object.
    pub extra_metadata: String,
    /// When it was committed, Unix milliseconds.
    pub timestamp_ms: i64,
    /// The source of its position.
    pub source: String,
    /// The position: the commit, the change in it, the mapping.
    pub lsn: u64,
    /// See `lsn`.
    pub ordinal: u64,
    /// See `lsn`.
    pub mapping: MappingId,
}

impl SpilledEvent {
    /// Its size as it counts, in bytes.
    pub fn bytes(&self) -> usize {
        self.payload.as_str().len() + self.extra_metadata.len()
    }
}

/// Takes a spill over for the leader of `term`, and counts what is in it; `None` where a later leader has it.
///
/// # Errors
/// Only those of the database.
pub async fn take_over(pool: &Pool, key: &SpillKey, term: u64) -> Result<Option<SpillSize>, DatabaseError> {
    let sql = "
        insert into cdc_spills as s (system_identifier, slot, term) values ($1, $2, $3)
        on conflict (system_identifier, slot) do update set term = excluded.term where s.term <= excluded.term";
    let mut transaction = pool.begin().await?;
    let query = sqlx::query(sql).bind(&key.system_identifier).bind(&key.slot).bind(term.cast_signed());
    if query.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(None);
    }
    // Counted anew: what belonged to an application goes with it.
    let sql = "
        update cdc_spills s set events = c.events, bytes = c.bytes
        from (select count(*) as events, coalesce(sum(bytes), 0)::bigint as bytes from cdc_spilled_events
            where system_identifier = $1 and slot = $2) c
        where s.system_identifier = $1 and s.slot = $2
        returning s.events, s.bytes";
    let query = sqlx::query_as(sql).bind(&key.system_identifier).bind(&key.slot);
    let size = query.fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some(size))
}

/// Puts events behind all others, as the leader of `term`; `None` where a later leader has the spill. Events of
/// applications that are gone are left out.
///
/// # Errors
/// Only those of the database; then nothing was spilled, or all of it.
pub async fn push(
    pool: &Pool,
    key: &SpillKey,
    term: u64,
    events: &[SpilledEvent],
) -> Result<Option<SpillSize>, DatabaseError> {
    let bytes: Vec<i32> = events.iter().map(|e| i32::try_from(e.bytes()).unwrap_or(i32::MAX)).collect();
    let sql = "
        update cdc_spills set last_number = last_number + $4, events = events + $4, bytes = bytes + $5
        where system_identifier = $1 and slot = $2 and term = $3
        returning last_number - $4 as before, events, bytes";
    let mut transaction = pool.begin().await?;
    let held = sqlx::query(sql)
        .bind(&key.system_identifier)
        .bind(&key.slot)
        .bind(term.cast_signed())
        .bind(i64::try_from(events.len()).unwrap_or(i64::MAX))
        .bind(bytes.iter().map(|n| i64::from(*n)).sum::<i64>())
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(held) = held else { return Ok(None) };
    let sql = "
        insert into cdc_spilled_events (system_identifier, slot, number, application_id, environment, topic, event_id,
            event_type, payload, extra_metadata, timestamp_ms, source, lsn, ordinal, mapping, bytes)
        select $1, $2, $3 + e.place, e.application_id, e.environment, e.topic, e.event_id, e.event_type, e.payload,
            e.extra_metadata, e.timestamp_ms, e.source, e.lsn, e.ordinal, e.mapping, e.bytes
        from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
            $11::bigint[], $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::int[]) with ordinality
            as e (application_id, environment, topic, event_id, event_type, payload, extra_metadata, timestamp_ms,
                source, lsn, ordinal, mapping, bytes, place)
        join environments using (application_id, environment)";
    sqlx::query(sql)
        .bind(&key.system_identifier)
        .bind(&key.slot)
        .bind(held.try_get::<i64, _>("before")?)
        .bind(events.iter().map(|e| e.scope.application().as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.topic.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.id.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.extra_metadata.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.timestamp_ms).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.source.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.lsn.cast_signed()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.ordinal.cast_signed()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.mapping.as_str()).collect::<Vec<_>>())
        .bind(bytes)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some(SpillSize { events: held.try_get("events")?, bytes: held.try_get("bytes")? }))
}

/// The oldest events with their numbers, at most `limit` and, behind the first, at most `bytes`.
///
/// # Errors
/// Only those of the database.
pub async fn oldest(
    executor: impl PgExecutor<'_>,
    key: &SpillKey,
    limit: usize,
    bytes: usize,
) -> Result<Vec<(i64, SpilledEvent)>, DatabaseError> {
    let sql = "
        select * from (
            select page.*, sum(bytes) over (order by number) as total, row_number() over (order by number) as place
            from (select * from cdc_spilled_events where system_identifier = $1 and slot = $2
                order by number limit $3) page
        ) sized where place = 1 or total <= $4 order by number";
    let rows = sqlx::query(sql)
        .bind(&key.system_identifier)
        .bind(&key.slot)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .fetch_all(executor)
        .await?;
    Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
}

fn read(row: &PgRow) -> Result<(i64, SpilledEvent), sqlx::Error> {
    let unknown = |_| sqlx::Error::Decode("an environment of another name".into());
    let environment: Environment = row.try_get::<&str, _>("environment")?.parse().map_err(unknown)?;
    let event = SpilledEvent {
        scope: Scope::new(AppId::from_stored(row.try_get::<String, _>("application_id")?), environment),
        topic: TopicName::from_stored(row.try_get("topic")?),
        id: EventId::from_stored(row.try_get::<String, _>("event_id")?),
        kind: row.try_get("event_type")?,
        payload: RawObject::from_trusted(row.try_get::<String, _>("payload")?),
        extra_metadata: row.try_get("extra_metadata")?,
        timestamp_ms: row.try_get("timestamp_ms")?,
        source: row.try_get("source")?,
        lsn: row.try_get::<i64, _>("lsn")?.cast_unsigned(),
        ordinal: row.try_get::<i64, _>("ordinal")?.cast_unsigned(),
        mapping: MappingId::from_stored(row.try_get::<String, _>("mapping")?),
    };
    Ok((row.try_get("number")?, event))
}

/// Removes everything up to `number`, which is in the log; answers what is left.
///
/// # Errors
/// Only those of the database.
pub async fn remove(
    executor: impl PgExecutor<'_>,
    key: &SpillKey,
    number: i64,
) -> Result<SpillSize, DatabaseError> {
    let sql = "
        with gone as (
            delete from cdc_spilled_events where system_identifier = $1 and slot = $2 and number <= $3
            returning bytes
        )
        update cdc_spills s set events = greatest(s.events - g.events, 0), bytes = greatest(s.bytes - g.bytes, 0)
        from (select count(*) as events, coalesce(sum(bytes), 0)::bigint as bytes from gone) g
        where s.system_identifier = $1 and s.slot = $2
        returning s.events, s.bytes";
    let query = sqlx::query_as(sql).bind(&key.system_identifier).bind(&key.slot).bind(number);
    Ok(query.fetch_optional(executor).await?.unwrap_or_default())
}

/// Forgets a spill with all that is in it: its target was given up. Answers how many events went with it.
///
/// # Errors
/// Only those of the database.
pub async fn forget(executor: impl PgExecutor<'_>, key: &SpillKey) -> Result<i64, DatabaseError> {
    let sql = "
        with gone as (delete from cdc_spills where system_identifier = $1 and slot = $2)
        select count(*) from cdc_spilled_events where system_identifier = $1 and slot = $2";
    let query = sqlx::query_scalar(sql).bind(&key.system_identifier).bind(&key.slot);
    Ok(query.fetch_one(executor).await?)
}
