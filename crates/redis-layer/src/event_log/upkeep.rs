//! Keeps what is stored within its bounds: side-effect streams behind the slowest group, histories by age, number
//! and size, and histories shorter while the server's memory runs short.

use super::{
    lane::{Shore, now_ms},
    registry,
    tally::Due,
};
use crate::{
    condition::SHORT,
    connection::{Link, linked, on_key, run_script},
    error::RedisError,
    generation::Settled,
    keys::{self, Partition},
};
use event_log::{BacklogNews, BacklogWatch, TopicKey};
use fred::{interfaces::ClientLike, types::Value};
use futures::{StreamExt, stream};
use sqlx::PgPool;
use std::{
    cmp::Ordering,
    sync::{Arc, atomic},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often histories that have grown are trimmed.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many of these rounds the registry of topics is read.
const REGISTRY: u32 = 5;
/// Every how many of these rounds side-effect streams are swept.
const SWEEP: u32 = 2;
/// Every how many of these rounds it is looked for sources that have ended.
const SOURCES: u32 = 5;
/// Entries of a side-effect stream that stay where nobody reads them.
const UNREAD: i64 = 100;
/// Trims under way at a time.
const AT_ONCE: usize = 16;
/// The share of the server's memory, in percent, below which histories are kept longer again.
const AMPLE: u64 = 70;
/// Histories are halved at most this often.
const HALVINGS: u32 = 10;

/// Runs until `stop`.
pub async fn run(shore: Arc<Shore>, pool: PgPool, stop: CancellationToken) {
    let mut upkeep = Upkeep { shore, pool, halvings: 0, round: 0, backlog: BacklogWatch::default() };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = upkeep.round().await {
            tracing::debug!(%error, "could not keep the event log within its bounds; trying again");
        }
    }
}

struct Upkeep {
    shore: Arc<Shore>,
    pool: PgPool,
    halvings: u32,
    round: u32,
    backlog: BacklogWatch,
}

impl Upkeep {
    async fn round(&mut self) -> Result<(), RedisError> {
        let (link, settled) =
            (linked(&self.shore.links, EVERY).await?, self.shore.guard.settled(EVERY).await?);
        if self.round.is_multiple_of(REGISTRY) {
            self.read_registry().await;
        }
        self.round = self.round.wrapping_add(1);
        let is_pressed = self.watch_memory();
        self.trim(&link, &settled, is_pressed).await;
        if self.round.is_multiple_of(SWEEP) {
            self.sweep(&link, &settled).await?;
        }
        if self.round.is_multiple_of(SOURCES) {
            self.forget_sources(&link).await?;
        }
        Ok(())
    }

    /// Reads which topics' histories have a length of their own. Until it can be read anew, the last holds.
    async fn read_registry(&self) {
        match registry::own_histories(&self.pool).await {
            Ok(own) => *self.shore.own.lock() = Arc::new(own),
            Err(error) => tracing::debug!(%error, "could not read the lengths of histories; trying again"),
        }
    }

    /// Keeps histories half as long while memory runs short, and twice as long once there is room; answers whether
    /// all of them are to be trimmed now.
    fn watch_memory(&mut self) -> bool {
        let nodes = self.shore.guard.seen().nodes;
        let share = nodes
            .iter()
            .filter(|node| node.memory.1 > 0)
            .map(|node| node.memory.0 * 100 / node.memory.1)
            .max();
        let share = share.unwrap_or_default();
        let before = self.halvings;
        if share >= SHORT && self.halvings < HALVINGS {
            self.halvings += 1;
        } else if share < AMPLE && self.halvings > 0 && self.round.is_multiple_of(30) {
            self.halvings -= 1;
        }
        let message = match self.halvings.cmp(&before) {
            Ordering::Greater => "histories are kept half as long, because redis is short of memory",
            Ordering::Less if self.halvings == 0 => "histories are kept as long as they are to be again",
            Ordering::Less => "histories are kept twice as long again",
            Ordering::Equal => return false,
        };
        tracing::warn!(redis.memory_percent = share, log.halvings = self.halvings, "{message}");
        self.halvings > before
    }

    async fn trim(&self, link: &Link, settled: &Settled, all: bool) {
        let settings = &self.shore.settings;
        let due = Due { events: settings.history_limit.events / 10, bytes: settings.history_limit.bytes / 8 };
        let topics = self.shore.tally.due(due, settings.history, all);
        let trimmed: u64 = stream::iter(topics)
            .map(async |topic| match self.trim_one(link, settled, &topic).await {
                Ok(count) => count,
                Err(error) => {
                    tracing::debug!(%error, topic.name = %topic.topic, "could not trim a history; trying again");
                    0
                }
            })
            .buffer_unordered(AT_ONCE)
            .fold(0, async |sum, count| sum + count)
            .await;
        if self.halvings > 0 {
            self.shore.metrics.log_history_shortened.inc_by(trimmed);
        }
    }

    async fn trim_one(&self, link: &Link, settled: &Settled, topic: &TopicKey) -> Result<u64, RedisError> {
        let settings = &self.shore.settings;
        let own = self.shore.own.lock().get(topic).copied();
        let keep_ms =
            i64::try_from(own.unwrap_or(settings.history).as_millis()).unwrap_or(i64::MAX) >> self.halvings;
        let arguments = vec![
            Value::Integer((settings.history_limit.events >> self.halvings).max(1) as i64),
            Value::Integer((settings.history_limit.bytes >> self.halvings) as i64),
            Value::Integer(now_ms().saturating_sub(keep_ms)),
        ];
        let keys = vec![keys::history(topic)];
        let answer =
            run_script(&link.reads, &settled.scripts.trim, Partition::of(topic), keys, arguments).await?;
        Ok(answer.as_u64().unwrap_or_default())
    }

    /// Forgets how far sources were appended that ended long enough ago.
    async fn forget_sources(&self, link: &Link) -> Result<(), RedisError> {
        let sources = registry::ended_sources(&self.pool).await?;
        if sources.is_empty() {
            return Ok(());
        }
        let all = Partition::all().map(|partition| {
            let mut arguments = vec![partition.sources()];
            arguments.extend(sources.iter().cloned());
            link.reads.custom::<Value, _>(on_key("HDEL"), arguments)
        });
        futures::future::try_join_all(all).await?;
        registry::sources_forgotten(&self.pool, &sources).await
    }

    /// Sweeps all side-effect streams, and finds out whether together they have reached the limit.
    async fn sweep(&mut self, link: &Link, settled: &Settled) -> Result<(), RedisError> {
        let all = Partition::all().map(async |partition| {
            let keys = vec![partition.meta(), partition.side_effects(), partition.groups()];
            let arguments = vec![Value::Integer(UNREAD)];
            let left = run_script(&link.reads, &settled.scripts.sweep, partition, keys, arguments).await?;
            Ok::<_, RedisError>(left.as_u64().unwrap_or_default())
        });
        let bytes: u64 = futures::future::try_join_all(all).await?.into_iter().sum();
        let limit = self.shore.settings.backlog_bytes;
        let is_full = bytes > limit;
        self.shore.full.store(is_full, atomic::Ordering::Relaxed);
        let share = bytes as f64 / limit.max(1) as f64;
        self.shore.metrics.log_backlog_ratio.set(share);
        let Some(news) = self.backlog.measured(share, is_full) else { return Ok(()) };
        let message = match news {
            BacklogNews::Alert => "side-effect readers are behind; at the limit appends are refused",
            BacklogNews::Full => "side-effect readers are behind up to the limit; appends are refused",
            BacklogNews::NotFull => "side-effect readers catch up; appends are taken again",
            BacklogNews::Relief => "side-effect readers have caught up",
        };
        tracing::warn!(
            log.unread_bytes = bytes,
            log.limit_bytes = limit,
            log.backlog_ratio = share,
            "{message}"
        );
        Ok(())
    }
}
