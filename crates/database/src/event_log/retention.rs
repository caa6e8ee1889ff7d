//! Removes what is no longer kept, behind the slowest side-effect reader, and says when the log is full.

use super::{LogSettings, within};
use event_log::{BacklogNews, BacklogWatch, LogError};
use metrics::Metrics;
use sqlx::{FromRow, PgPool, Row, postgres::PgRow};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows removed by one statement, so that none holds its locks for long.
const CHUNK: i64 = 5_000;
/// Unread events of a partition whose sizes stand for all of them.
const SAMPLE: i64 = 200;
/// How long a publisher's id is recognized.
const IDS_SECONDS: f64 = 24.0 * 3600.0;
/// How long the id of an outbox's row is recognized whose worker never says that the row is gone.
const OUTBOX_IDS_SECONDS: f64 = 30.0 * 24.0 * 3600.0;
/// How long what an ended source has appended is recognized.
const SOURCES_SECONDS: f64 = 24.0 * 3600.0;
/// How much longer than its last event a topic's position is kept; a minute more, because heads show their age no finer.
const POSITION_SECONDS: f64 = 24.0 * 3600.0 + 60.0;

/// A topic whose history has a length of its own.
#[derive(Debug, PartialEq, FromRow)]
struct OwnHistory {
    /// The number that stands for the topic and its epoch.
    id: i64,
    partition: i16,
    history_seconds: i32,
}

/// Removes what is no longer kept; one a process, several on one database do no harm.
pub struct Sweeper {
    pool: PgPool,
    settings: LogSettings,
    full: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    watch: BacklogWatch,
    /// Topics that are trimmed by themselves, as of the last sweep.
    own: Vec<OwnHistory>,
    /// Up to where each partition holds nothing but such topics' events, so that no sweep passes them again.
    walked: HashMap<u16, i64>,
}

impl Sweeper {
    /// A sweeper that says in `full` whether appends are to be refused.
    pub fn new(pool: PgPool, settings: LogSettings, full: Arc<AtomicBool>, metrics: Arc<Metrics>) -> Self {
        let (watch, own, walked) = Default::default();
        Self { pool, settings, full, metrics, watch, own, walked }
    }

    /// Sweeps until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.settings.sweep_every) => {}
            }
            if let Err(error) = self.sweep().await {
                tracing::debug!(%error, "could not sweep the event log; trying again later");
            }
        }
    }

    async fn sweep(&mut self) -> Result<(), LogError> {
        let own = own_histories(&self.pool).await?;
        if own != self.own {
            (self.own, self.walked) = (own, HashMap::new());
        }
        for topic in &self.own {
            while trim_topic(&self.pool, topic).await? == CHUNK as u64 {}
        }
        for partition in 0..super::PARTITIONS {
            while self.trim(partition).await? {}
        }
        let mut kept = kept_bytes(&self.pool).await?;
        // Past the limit the oldest history goes before anything live suffers.
        while kept > self.settings.backlog_bytes && trim_oldest(&self.pool).await? > 0 {
            kept = kept_bytes(&self.pool).await?;
        }
        self.judge(kept).await?;
        forget_sources(&self.pool).await?;
        forget(&self.pool, self.settings.history.as_secs_f64()).await
    }

    /// Says how far readers are behind; `kept` bytes are left now that all that may go has gone.
    async fn judge(&mut self, kept: u64) -> Result<(), LogError> {
        let limit = self.settings.backlog_bytes;
        let is_full = kept > limit;
        self.full.store(is_full, Ordering::Relaxed);
        // What is kept although it must go has not been read.
        let unread = if is_full { kept } else { unread_bytes(&self.pool).await? };
        let share = unread as f64 / limit as f64;
        self.metrics.log_backlog_ratio.set(share);
        let Some(news) = self.watch.measured(share, is_full) else { return Ok(()) };
        let message = match news {
            BacklogNews::Alert => "side-effect readers are behind; at the limit appends are refused",
            BacklogNews::Full => "side-effect readers are behind up to the limit; appends are refused",
            BacklogNews::NotFull => "side-effect readers catch up; appends are taken again",
            BacklogNews::Relief => "side-effect readers have caught up",
        };
        tracing::warn!(
            log.unread_bytes = unread,
            log.limit_bytes = limit,
            log.backlog_ratio = share,
            "{message}"
        );
        Ok(())
    }

    /// Passes one chunk of a partition's events, and removes of it what is older than the log keeps; answers
    /// whether there is more of that age.
    async fn trim(&mut self, partition: u16) -> Result<bool, LogError> {
        let of_partition = self.own.iter().filter(|own| own.partition == partition as i16);
        let walked = self.walked.entry(partition).or_default();
        let query = sqlx::query(
            "with read as ( \
                 select coalesce(min(sequence), 9223372036854775807) as upto from event_log_groups \
                 where partition = $1 \
             ), passed as ( \
                 select e.sequence, e.topic_id, e.sequence <= r.upto \
                        and e.appended_at < now() - make_interval(secs => $3) as expired \
                 from event_log e, read r where e.partition = $1 and e.sequence > $4 order by e.sequence limit $2 \
             ), gone as ( \
                 delete from event_log e using passed p \
                 where e.partition = $1 and e.sequence = p.sequence and p.expired and p.topic_id <> all($5) \
                 returning octet_length(e.payload) + octet_length(e.metadata) + octet_length(e.event_type) + 128 \
                           as size \
             ), counted as (select coalesce(sum(size), 0)::bigint as bytes from gone \
             ), shrunk as ( \
                 update event_log_partitions p set bytes = greatest(0, p.bytes - counted.bytes) from counted \
                 where p.partition = $1 and counted.bytes > 0 \
             ) \
             select coalesce(min(sequence) filter (where not expired) - 1, max(sequence), $4) as walked, \
                    count(*) = $2 and bool_and(expired) as more from passed",
        )
        .bind(partition as i16)
        .bind(CHUNK)
        .bind(self.settings.history.as_secs_f64())
        .bind(*walked)
        .bind(of_partition.map(|own| own.id).collect::<Vec<_>>())
        .fetch_one(&self.pool);
        let row = within(TIMEOUT, query).await?;
        *walked = row.try_get("walked").map_err(super::failed)?;
        // A partition without events has no more of them either.
        Ok(row.try_get::<Option<bool>, _>("more").map_err(super::failed)?.unwrap_or(false))
    }
}

/// The topics with events and a history of their own.
async fn own_histories(pool: &PgPool) -> Result<Vec<OwnHistory>, LogError> {
    let query = sqlx::query_as(
        "select t.id, t.partition, r.history_seconds \
         from topics r join event_log_topics t \
           on t.application_id = r.application_id and t.environment = r.environment and t.topic = r.name \
         where r.history_seconds is not null and t.is_current order by t.id",
    )
    .fetch_all(pool);
    within(TIMEOUT, query).await
}

/// Removes one chunk of a topic's events that are older than its own history; answers how many. Those of another
/// epoch go with everybody's.
async fn trim_topic(pool: &PgPool, own: &OwnHistory) -> Result<u64, LogError> {
    let query = sqlx::query(
        "with read as ( \
             select coalesce(min(sequence), 9223372036854775807) as upto from event_log_groups where partition = $1 \
         ), oldest as ( \
             select sequence, appended_at from event_log \
             where topic_id = $4 order by topic_offset limit $2 \
         ), gone as ( \
             delete from event_log e using oldest o, read r \
             where e.partition = $1 and e.sequence = o.sequence and o.sequence <= r.upto \
               and o.appended_at < now() - make_interval(secs => $3) \
             returning octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128 as size \
         ), counted as (select count(*) as removed, coalesce(sum(size), 0)::bigint as bytes from gone) \
         update event_log_partitions p set bytes = greatest(0, p.bytes - counted.bytes) from counted \
         where p.partition = $1 and counted.removed > 0 returning counted.removed",
    )
    .bind(own.partition)
    .bind(CHUNK)
    .bind(f64::from(own.history_seconds))
    .bind(own.id)
    .fetch_optional(pool);
    removed(within(TIMEOUT, query).await?)
}

async fn kept_bytes(pool: &PgPool) -> Result<u64, LogError> {
    let query = sqlx::query("select coalesce(sum(bytes), 0)::bigint as bytes from event_log_partitions")
        .fetch_one(pool);
    let row = within(TIMEOUT, query).await?;
    row.try_get::<i64, _>("bytes").map(i64::unsigned_abs).map_err(super::failed)
}

/// About how many bytes the slowest side-effect reader has yet to read: the size of the next unread events of each
/// partition, times the number of unread ones.
async fn unread_bytes(pool: &PgPool) -> Result<u64, LogError> {
    let query = sqlx::query(
        "select coalesce(sum(least(p.bytes, (p.sequence - g.sequence) * next.size)), 0)::bigint as bytes \
         from event_log_partitions p \
         join (select partition, min(sequence) as sequence from event_log_groups group by partition) g \
           on g.partition = p.partition and g.sequence < p.sequence \
         cross join lateral ( \
             select avg(octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128) as size \
             from (select payload, metadata, event_type from event_log e \
                   where e.partition = p.partition and e.sequence > g.sequence \
                   order by e.sequence limit $1) sample) next",
    )
    .bind(SAMPLE)
    .fetch_one(pool);
    let row = within(TIMEOUT, query).await?;
    row.try_get::<i64, _>("bytes").map(i64::unsigned_abs).map_err(super::failed)
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
        removed += trim_partition(pool, partition).await?;
    }
    Ok(removed)
}

/// Removes one chunk of a partition's oldest events, whatever their age; answers how many.
async fn trim_partition(pool: &PgPool, partition: i16) -> Result<u64, LogError> {
    let query = sqlx::query(
        "with read as ( \
             select coalesce(min(sequence), 9223372036854775807) as upto from event_log_groups where partition = $1 \
         ), oldest as ( \
             select sequence from event_log where partition = $1 order by sequence limit $2 \
         ), gone as ( \
             delete from event_log e using oldest o, read r \
             where e.partition = $1 and e.sequence = o.sequence and o.sequence <= r.upto \
             returning octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128 as size \
         ), counted as (select count(*) as removed, coalesce(sum(size), 0)::bigint as bytes from gone) \
         update event_log_partitions p set bytes = greatest(0, p.bytes - counted.bytes) from counted \
         where p.partition = $1 and counted.removed > 0 returning counted.removed",
    )
    .bind(partition)
    .bind(CHUNK)
    .fetch_optional(pool);
    removed(within(TIMEOUT, query).await?)
}

fn removed(row: Option<PgRow>) -> Result<u64, LogError> {
    row.map_or(Ok(0), |row| row.try_get::<i64, _>("removed").map(i64::unsigned_abs).map_err(super::failed))
}

/// Forgets how far sources were appended that ended long enough ago. As long as anything is spilled, it may be of one of
/// them, and may have been appended before.
async fn forget_sources(pool: &PgPool) -> Result<(), LogError> {
    let query = sqlx::query(
        "with ended as ( \
             select source from event_log_ended_sources \
             where ended_at < now() - make_interval(secs => $1) \
               and not exists (select from cdc_spills where events > 0) \
             order by source limit 1000 \
         ), gone as ( \
             delete from event_log_sources s using ended e where s.source = e.source \
         ) \
         delete from event_log_ended_sources d using ended e where d.source = e.source",
    )
    .bind(SOURCES_SECONDS)
    .execute(pool);
    within(TIMEOUT, query).await.map(|_| ())
}

/// Forgets publishers' ids and positions of topics whose time is over.
async fn forget(pool: &PgPool, keep: f64) -> Result<(), LogError> {
    let ids = sqlx::query(
        "delete from event_log_ids where ctid in (select ctid from event_log_ids \
         where created_at < now() - make_interval(secs => $1) \
           and (producer not like 'outbox:%' or created_at < now() - make_interval(secs => $2)) limit 10000)",
    )
    .bind(IDS_SECONDS)
    .bind(OUTBOX_IDS_SECONDS)
    .execute(pool);
    within(TIMEOUT, ids).await?;
    let topics = sqlx::query(
        "delete from event_log_topics where ctid in ( \
             select t.ctid from event_log_topics t left join topics r \
               on r.application_id = t.application_id and r.environment = t.environment and r.name = t.topic \
             where t.updated_at < now() - make_interval(secs => $2) \
               and t.updated_at < now() - make_interval(secs => coalesce(r.history_seconds, $1::float8) + $2) \
               and not exists (select from event_log e where e.topic_id = t.id) \
             limit 10000)",
    )
    .bind(keep)
    .bind(POSITION_SECONDS)
    .execute(pool);
    within(TIMEOUT, topics).await.map(|_| ())
}
