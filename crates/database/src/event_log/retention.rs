//! Removes what is no longer kept, behind the slowest side-effect reader, and says when the log is full.

use super::{LogSettings, within};
use event_log::LogError;
use sqlx::{PgPool, Row};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows removed by one statement, so that none holds its locks for long.
const CHUNK: i64 = 5_000;
/// How long a publisher's id is recognized.
const IDS_SECONDS: f64 = 24.0 * 3600.0;
/// How much longer than its last event a topic's position is kept.
const POSITION_SECONDS: f64 = 24.0 * 3600.0;

/// Sweeps until `stop`.
pub async fn run(pool: PgPool, settings: LogSettings, full: Arc<AtomicBool>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = sweep(&pool, &settings, &full).await {
            tracing::debug!(%error, "could not sweep the event log; trying again later");
        }
    }
}

async fn sweep(pool: &PgPool, settings: &LogSettings, full: &AtomicBool) -> Result<(), LogError> {
    let keep = settings.history.as_secs_f64();
    for partition in 0..super::PARTITIONS {
        while trim(pool, partition, keep).await? == CHUNK as u64 {}
    }
    let mut kept = kept_bytes(pool).await?;
    // Past the limit the oldest history goes before anything live suffers.
    while kept > settings.backlog_bytes && trim_oldest(pool).await? > 0 {
        kept = kept_bytes(pool).await?;
    }
    let is_full = kept > settings.backlog_bytes;
    if full.swap(is_full, Ordering::Relaxed) != is_full {
        tracing::warn!(log.bytes = kept, log.full = is_full, "the event log's fill state changed");
    }
    forget(pool, keep).await
}

async fn kept_bytes(pool: &PgPool) -> Result<u64, LogError> {
    let query = sqlx::query("select coalesce(sum(bytes), 0)::bigint as bytes from event_log_partitions")
        .fetch_one(pool);
    let row = within(TIMEOUT, query).await?;
    row.try_get::<i64, _>("bytes").map(i64::unsigned_abs).map_err(super::failed)
}

/// Removes one chunk of a partition's events that are older than `keep` seconds; answers how many.
async fn trim(pool: &PgPool, partition: u16, keep: f64) -> Result<u64, LogError> {
    remove(pool, partition, Some(keep)).await
}

/// Removes one chunk of the fullest partitions' oldest events, whatever their age; answers how many.
async fn trim_oldest(pool: &PgPool) -> Result<u64, LogError> {
    let query =
        sqlx::query("select partition from event_log_partitions where bytes > 0 order by bytes desc limit 8")
            .fetch_all(pool);
    let fullest = within(TIMEOUT, query).await?;
    let mut removed = 0;
    for row in fullest {
        let partition: i16 = row.try_get("partition").map_err(super::failed)?;
        removed += remove(pool, partition as u16, None).await?;
    }
    Ok(removed)
}

async fn remove(pool: &PgPool, partition: u16, older_than: Option<f64>) -> Result<u64, LogError> {
    let query = sqlx::query(
        "with read as ( \
             select coalesce(min(sequence), 9223372036854775807) as upto from event_log_groups where partition = $1 \
         ), oldest as ( \
             select sequence, appended_at from event_log where partition = $1 order by sequence limit $2 \
         ), gone as ( \
             delete from event_log e using oldest o, read r \
             where e.partition = $1 and e.sequence = o.sequence and o.sequence <= r.upto \
               and ($3::float8 is null or o.appended_at < now() - make_interval(secs => $3)) \
             returning octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128 as size \
         ), counted as (select count(*) as removed, coalesce(sum(size), 0)::bigint as bytes from gone) \
         update event_log_partitions p set bytes = greatest(0, p.bytes - counted.bytes) from counted \
         where p.partition = $1 and counted.removed > 0 returning counted.removed",
    )
    .bind(partition as i16)
    .bind(CHUNK)
    .bind(older_than)
    .fetch_optional(pool);
    let row = within(TIMEOUT, query).await?;
    row.map_or(Ok(0), |row| row.try_get::<i64, _>("removed").map(i64::unsigned_abs).map_err(super::failed))
}

/// Forgets publishers' ids and positions of topics whose time is over.
async fn forget(pool: &PgPool, keep: f64) -> Result<(), LogError> {
    let ids = sqlx::query(
        "delete from event_log_ids where ctid in (select ctid from event_log_ids \
         where created_at < now() - make_interval(secs => $1) limit 10000)",
    )
    .bind(IDS_SECONDS)
    .execute(pool);
    within(TIMEOUT, ids).await?;
    let topics = sqlx::query(
        "delete from event_log_topics where ctid in (select ctid from event_log_topics \
         where updated_at < now() - make_interval(secs => $1) limit 10000)",
    )
    .bind(keep + POSITION_SECONDS)
    .execute(pool);
    within(TIMEOUT, topics).await.map(|_| ())
}
