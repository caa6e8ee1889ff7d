//! The event log on Redis.
//!
//! Owns the `realtime:*` keys. A topic hashes to one of 64 partitions, whose keys share a hash tag; one lane a
//! partition sends what has queued up as one script, which numbers, keeps and announces it in one atomic step. Live
//! readers hear of events by publish/subscribe and read by position wherever a message may be missing.

mod announce;
pub(crate) mod batch;
mod control;
pub(crate) mod encode;
mod history;
pub(crate) mod lane;
mod live;
mod messages;
mod registry;
pub(crate) mod side_effects;
mod tally;
mod upkeep;

use crate::{
    condition,
    connection::{self, Links, on},
    counters::RedisCounters,
    error::RedisError,
    generation::{self, Guard},
    keys::{PARTITIONS, Partition},
    presence::RedisPresence,
    settings::RedisSettings,
};
use batch::{Mark, Prepared};
use event_log::{
    Condition, Entry, EventLog, HistoryPage, HistoryQuery, LiveReader, LogError, Message, Outcome,
    SideEffectReader, TopicKey,
};
use fred::interfaces::ClientLike;
use futures::future::{BoxFuture, join_all};
use lane::{Lane, Part, Shore};
use metrics::Metrics;
use shared_types::Position;
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How many parts of calls may wait for a lane before callers wait in turn.
const QUEUE: usize = 4096;
/// How long a read waits for the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The event log on Redis, one a process.
pub struct RedisEventLog {
    shore: Arc<Shore>,
    lanes: Arc<[mpsc::Sender<Part>]>,
    live: live::LiveHub,
    /// Who holds one keeps the connections open; those that run do.
    users: mpsc::WeakSender<()>,
}

impl RedisEventLog {
    /// Starts the connections, the keeper of the generation, the lanes, the live reader and the upkeep in `tasks`;
    /// they end with `stop`. `pool` holds the generation's witness.
    ///
    /// Neither server need be reachable yet: calls fail with `Unavailable` until both are.
    ///
    /// # Errors
    /// `Url` where the URL cannot be used.
    pub fn start(
        settings: RedisSettings,
        pool: PgPool,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, RedisError> {
        connection::check_url(&settings.url)?;
        let (links_in, links) = watch::channel(None);
        let (user, users) = mpsc::channel(1);
        let guard = Guard::new();
        tasks.spawn(connection::run(settings.url.clone(), links_in, users, stop.clone()));
        tasks.spawn(generation::run(guard.clone(), links.clone(), pool.clone(), stop.clone()));
        let shore = Arc::new(Shore {
            links,
            guard,
            settings,
            metrics,
            full: false.into(),
            tally: Default::default(),
            own: Default::default(),
            unflushed: Default::default(),
            pages: Semaphore::new(history::PAGES),
            writer: format!("{:016x}", rand::random::<u64>()),
        });
        let lanes = Partition::all().map(|partition| {
            let (sender, queue) = mpsc::channel(QUEUE);
            tasks.spawn(Lane::new(partition, shore.clone(), queue, user.clone()).run(stop.clone()));
            sender
        });
        let lanes = lanes.collect();
        let live = live::LiveHub::start(shore.clone(), tasks, stop.clone());
        tasks.spawn(upkeep::run(shore.clone(), pool, stop));
        Ok(Arc::new(Self { shore, lanes, live, users: user.downgrade() }))
    }
}

impl RedisEventLog {
    /// What whoever else writes to the log's partitions needs, and a hold on its connections.
    pub(crate) fn share(&self) -> (Arc<Shore>, mpsc::Sender<()>) {
        // Where the log has ended there are no connections to be held open.
        let user = self.users.upgrade().unwrap_or_else(|| mpsc::channel(1).0);
        (self.shore.clone(), user)
    }

    /// The connections.
    pub(crate) fn links(&self) -> Links {
        self.shore.links.clone()
    }

    /// Presence over the same connections.
    pub fn presence(&self) -> RedisPresence {
        RedisPresence::new(self.shore.links.clone())
    }

    /// Counters over the same connections.
    pub fn counters(&self) -> RedisCounters {
        RedisCounters::new(self.shore.links.clone())
    }
}

impl EventLog for RedisEventLog {
    fn append(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<Vec<Outcome>, LogError>> {
        let entries = entries.iter().map(Prepared::new).collect();
        // Without a budget, so that the first poll takes a place in every queue: a task that has spent its turn would
        // otherwise be sent away without one, and a later call could overtake this one.
        Box::pin(tokio::task::unconstrained(append(self.shore.clone(), self.lanes.clone(), entries)))
    }

    fn history(
        &self,
        key: &TopicKey,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, LogError>> {
        Box::pin(history::page(self.shore.clone(), key.clone(), query))
    }

    fn head(&self, key: &TopicKey) -> BoxFuture<'static, Result<Position, LogError>> {
        let (shore, key) = (self.shore.clone(), key.clone());
        Box::pin(async move {
            let mut heads = history::heads(&shore, std::slice::from_ref(&key)).await?;
            heads.remove(&key).ok_or_else(|| LogError::Internal("no head for a topic".to_owned()))
        })
    }

    fn announce(&self, messages: Vec<Message>) -> BoxFuture<'static, Result<(), LogError>> {
        Box::pin(tokio::task::unconstrained(announce::announce(self.shore.clone(), messages)))
    }

    fn begin_epochs(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        Box::pin(control::begin_epochs(self.shore.clone(), keys))
    }

    fn live(&self) -> LiveReader {
        self.live.open()
    }

    fn side_effects(&self, group: &str) -> BoxFuture<'static, Result<Arc<dyn SideEffectReader>, LogError>> {
        Box::pin(side_effects::open(self.shore.clone(), group.to_owned()))
    }

    fn partitions(&self) -> u16 {
        PARTITIONS
    }

    fn conditions(&self) -> Vec<Condition> {
        let mut all = condition::of(&self.shore.guard.seen());
        all.extend(condition::of_documents(&self.shore.unflushed));
        all
    }
}

/// Appends a call's entries: one part for each partition, or several where there are many.
async fn append(
    shore: Arc<Shore>,
    lanes: Arc<[mpsc::Sender<Part>]>,
    entries: Vec<Prepared>,
) -> Result<Vec<Outcome>, LogError> {
    batch::check(&entries)?;
    let count = entries.len();
    let parts = split(entries);
    let verdict = (parts.len() > 1).then(|| ids_of(&parts)).filter(|ids| !ids.is_empty());
    let verdict = verdict.map(|ids| lane::verdict(Box::pin(no_conflict(shore, ids))));
    let queued = Instant::now();
    let mut answers = Vec::with_capacity(parts.len());
    let mut failures: BTreeMap<u16, Arc<OnceLock<LogError>>> = BTreeMap::new();
    let sends = parts.into_iter().map(|(partition, numbers, entries)| {
        let (reply, answer) = oneshot::channel();
        answers.push((numbers, answer));
        let (verdict, failed) = (verdict.clone(), failures.entry(partition.0).or_default().clone());
        lanes[usize::from(partition.0)].send(Part { entries, verdict, reply, queued, failed })
    });
    let stopped = || LogError::Unavailable("the log is stopping".to_owned());
    // All at once, so that the first poll takes a place in each queue.
    let sent = join_all(sends).await;
    if sent.iter().any(Result::is_err) {
        return Err(stopped());
    }
    let mut outcomes = vec![Outcome::Repeated(None); count];
    for (numbers, answer) in answers {
        let part = answer.await.map_err(|_| stopped())??;
        numbers.into_iter().zip(part).for_each(|(number, outcome)| outcomes[number] = outcome);
    }
    Ok(outcomes)
}

/// The parts of a call: their partition, the numbers of their entries within the call, and the entries.
type Split = Vec<(Partition, Vec<usize>, Vec<Prepared>)>;

fn split(entries: Vec<Prepared>) -> Split {
    let mut by_partition: BTreeMap<u16, (Vec<usize>, Vec<Prepared>)> = BTreeMap::new();
    for (number, entry) in entries.into_iter().enumerate() {
        let (numbers, part) = by_partition.entry(Partition::of(&entry.key).0).or_default();
        numbers.push(number);
        part.push(entry);
    }
    let mut parts = Vec::new();
    for (partition, (numbers, entries)) in by_partition {
        let mut entries = entries.into_iter();
        for numbers in numbers.chunks(lane::BATCH_EVENTS) {
            let part = entries.by_ref().take(numbers.len()).collect();
            parts.push((Partition(partition), numbers.to_vec(), part));
        }
    }
    parts
}

/// Publishers' ids of a call: by partition key, fingerprint and id.
type Ids = BTreeMap<u16, Vec<(String, String, String)>>;

fn ids_of(parts: &Split) -> Ids {
    let mut ids = Ids::new();
    for (partition, _, entries) in parts {
        for entry in entries {
            if let Mark::Keyed { key, fingerprint } = &entry.identity {
                let id = (key.clone(), fingerprint.clone(), entry.id.to_string());
                ids.entry(partition.0).or_default().push(id);
            }
        }
    }
    ids
}

/// Looks, before anything of a call over several scripts is appended, whether one of its ids was used for other
/// content.
async fn no_conflict(shore: Arc<Shore>, ids: Ids) -> Result<(), LogError> {
    let link = connection::linked(&shore.links, PATIENCE).await?;
    let all = ids.into_iter().map(async |(partition, ids)| {
        let keys: Vec<String> = ids.iter().map(|(key, ..)| key.clone()).collect();
        let known: Vec<Option<String>> =
            link.reads.custom(on(Partition(partition), "MGET"), keys).await.map_err(RedisError::from)?;
        let conflict = ids.iter().zip(known).find(|((_, fingerprint, _), known)| {
            known.as_ref().is_some_and(|known| !known.starts_with(fingerprint.as_str()))
        });
        match conflict {
            Some(((_, _, id), _)) => Err(LogError::IdConflict { id: id.clone() }),
            None => Ok(()),
        }
    });
    futures::future::try_join_all(all).await.map(|_| ())
}
