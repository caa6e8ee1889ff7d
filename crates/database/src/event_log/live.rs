//! The live reader: one task that follows the partitions in which this process wants topics.
//!
//! It learns of growth from this process's own writer (which hands over the events themselves), from NOTIFY and by
//! looking every half second. Whatever the hint, a partition is followed by position: events that were handed over
//! are taken only where they connect to it, and are read otherwise.

use super::{PARTITIONS, append::Grown, ask, messages::Wanted, notify, rows, within, writer::Command};
use event_log::{
    LiveReader, LiveWatch, LogError, Message, StoredEvent, TopicKey, WAITING_RENEWED, partition_of,
};
use futures::future::BoxFuture;
use metrics::Metrics;
use parking_lot::Mutex;
use shared_types::Position;
use sqlx::{PgPool, Row, postgres::PgListener};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How often the reader looks by itself.
const LOOK: Duration = Duration::from_millis(500);
/// Topics whose epochs are looked at each time.
const LOOKED_AT: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Events read from one partition at a time.
const PAGE: i64 = 1_000;
/// Beyond this many watched topics of the partitions read, payloads are fetched without asking which are wanted.
const NAMED: usize = 200;
/// How long to wait before listening again after a failure.
const RELISTEN: Duration = Duration::from_secs(1);

/// Topics to follow, and where their heads go.
type WatchAsk = (Vec<TopicKey>, oneshot::Sender<Result<Vec<Position>, LogError>>);

/// In place of a sequence: topics of the partition have got new epochs.
const UNTOLD: u64 = u64::MAX;

enum Ask {
    Watch(WatchAsk),
    Unwatch { keys: Vec<TopicKey> },
    Nudge { partition: u16 },
}

/// What the rest of the log knows of the live reader.
pub struct LiveHub {
    asks: mpsc::Sender<Ask>,
    committed: mpsc::Sender<Grown>,
    events: Mutex<Option<mpsc::Receiver<Vec<Arc<StoredEvent>>>>>,
    messages: Mutex<Option<mpsc::Receiver<Message>>>,
    renewed: Mutex<Option<mpsc::Receiver<TopicKey>>>,
}

impl LiveHub {
    /// The hub and the task to run.
    pub fn new(
        pool: PgPool,
        commands: mpsc::Sender<Command>,
        metrics: Arc<Metrics>,
        wanted: Wanted,
        messages: mpsc::Receiver<Message>,
    ) -> (Self, Reader) {
        let (asks, asked) = mpsc::channel(1024);
        let (committed, grown) = mpsc::channel(256);
        let (out, events) = mpsc::channel(64);
        let (tell, renewed) = mpsc::channel(WAITING_RENEWED);
        let (partitions, turn) = (HashMap::new(), Vec::new());
        let reader = Reader { pool, commands, metrics, asked, grown, out, tell, wanted, partitions, turn };
        let (events, messages) = (Mutex::new(Some(events)), Mutex::new(Some(messages)));
        (Self { asks, committed, events, messages, renewed: Mutex::new(Some(renewed)) }, reader)
    }

    /// Where the writer hands over what it committed.
    pub fn committed(&self) -> mpsc::Sender<Grown> {
        self.committed.clone()
    }

    /// The reader's end, once; later calls get one that has ended.
    pub fn open(&self) -> LiveReader {
        let events = self.events.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        let messages = self.messages.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        let renewed = self.renewed.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        LiveReader { watch: Arc::new(Watch { asks: self.asks.clone() }), events, messages, renewed }
    }
}

struct Watch {
    asks: mpsc::Sender<Ask>,
}

impl LiveWatch for Watch {
    fn watch(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        let asks = self.asks.clone();
        Box::pin(async move {
            let stopped = || LogError::Unavailable("the log is stopping".to_owned());
            let (reply, answer) = oneshot::channel();
            asks.send(Ask::Watch((keys, reply))).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        })
    }

    fn unwatch(&self, keys: Vec<TopicKey>) {
        // A full queue keeps the topics watched, which costs a little and breaks nothing.
        let _ = self.asks.try_send(Ask::Unwatch { keys });
    }

    fn nudge(&self, key: &TopicKey) {
        let _ = self.asks.try_send(Ask::Nudge { partition: partition_of(key, PARTITIONS) });
    }
}

/// A followed partition.
struct Followed {
    /// Everything up to this number has been seen.
    sequence: u64,
    /// What is wanted, with the epoch that was last heard of.
    wanted: HashMap<TopicKey, Arc<str>>,
}

impl Followed {
    /// Whether the event is wanted; then its epoch has been heard of.
    fn takes(&mut self, event: &StoredEvent) -> bool {
        let Some(epoch) = self.wanted.get_mut(&event.key) else { return false };
        if *epoch != event.position.epoch {
            *epoch = event.position.epoch.clone();
        }
        true
    }
}

/// The reader task's state.
pub struct Reader {
    pool: PgPool,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
    asked: mpsc::Receiver<Ask>,
    grown: mpsc::Receiver<Grown>,
    out: mpsc::Sender<Vec<Arc<StoredEvent>>>,
    /// Where topics go that have got a new epoch.
    tell: mpsc::Sender<TopicKey>,
    /// The keys of all partitions, for messages.
    wanted: Wanted,
    partitions: HashMap<u16, Followed>,
    /// Topics whose epochs are still to be looked at in this round.
    turn: Vec<TopicKey>,
}

impl Reader {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (heard, mut notices) = mpsc::channel(256);
        let (follow, followed) = mpsc::channel(256);
        let listening = listen(self.pool.clone(), followed, heard);
        tokio::pin!(listening);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut dirty = BTreeSet::new();
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut listening => return,
                Some(grown) = self.grown.recv() => self.take(grown, &mut dirty).await,
                Some(ask) = self.asked.recv() => self.serve(ask, &follow, &mut dirty).await,
                Some((partition, sequence)) = notices.recv() => {
                    self.heard(partition, sequence, &mut dirty);
                    if sequence == UNTOLD {
                        self.look_at_epochs(partition).await;
                    }
                }
                _ = look.tick() => {
                    dirty.extend(self.partitions.keys().copied());
                    self.take_turn().await;
                }
            }
            if !dirty.is_empty()
                && let Err(error) = self.read(dirty).await
            {
                tracing::debug!(%error, "could not read live events; trying again");
            }
        }
    }

    /// Takes events that this process committed, where they connect.
    async fn take(&mut self, grown: Grown, dirty: &mut BTreeSet<u16>) {
        let Some(followed) = self.partitions.get_mut(&grown.partition) else { return };
        if grown.last() <= followed.sequence {
            return;
        }
        if grown.first != followed.sequence + 1 {
            dirty.insert(grown.partition);
            return;
        }
        followed.sequence = grown.last();
        let wanted: Vec<_> = grown.events.into_iter().filter(|event| followed.takes(event)).collect();
        self.emit(wanted).await;
    }

    /// Hands events to the router. Waits while it is busy: what comes meanwhile is read by position.
    async fn emit(&self, events: Vec<Arc<StoredEvent>>) {
        if !events.is_empty() && self.out.send(events).await.is_err() {
            tracing::debug!("nobody takes live events any more");
        }
    }

    fn heard(&self, partition: Option<u16>, sequence: u64, dirty: &mut BTreeSet<u16>) {
        match partition {
            Some(partition) => {
                if self.partitions.get(&partition).is_some_and(|followed| followed.sequence < sequence) {
                    dirty.insert(partition);
                }
            }
            // The listener was away: notices may have been missed anywhere.
            None => dirty.extend(self.partitions.keys().copied()),
        }
    }

    /// Serves one ask and all that wait behind it, so that many new topics cost one query.
    async fn serve(&mut self, first: Ask, follow: &mpsc::Sender<u16>, dirty: &mut BTreeSet<u16>) {
        let mut watches = Vec::new();
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Watch(watch) => watches.push(watch),
                Ask::Nudge { partition } => drop(dirty.insert(partition)),
                Ask::Unwatch { keys } => {
                    // In order: a topic that is wanted again right behind must stay.
                    self.watch_all(std::mem::take(&mut watches), follow).await;
                    self.forget(&keys);
                }
            }
            next = self.asked.try_recv().ok();
        }
        self.watch_all(watches, follow).await;
    }

    fn forget(&mut self, keys: &[TopicKey]) {
        for key in keys {
            let partition = partition_of(key, PARTITIONS);
            if let Some(followed) = self.partitions.get_mut(&partition) {
                followed.wanted.remove(key);
                self.wanted.write().remove(key);
                if followed.wanted.is_empty() {
                    self.partitions.remove(&partition);
                }
            }
        }
    }

    async fn watch_all(&mut self, watches: Vec<WatchAsk>, follow: &mpsc::Sender<u16>) {
        if watches.is_empty() {
            return;
        }
        let keys: HashSet<&TopicKey> = watches.iter().flat_map(|(keys, _)| keys).collect();
        let heads = self.baseline(keys.into_iter().cloned().collect(), follow).await;
        for (keys, reply) in watches {
            let answer = heads
                .as_ref()
                .map_err(Clone::clone)
                .map(|heads| keys.iter().map(|key| heads[key].clone()).collect::<Vec<_>>());
            let _ = reply.send(answer);
        }
    }

    /// Begins to follow the topics and answers their heads as of one snapshot, together with the partitions'
    /// sequences: whatever comes behind the head also comes behind the sequence from which the partition is read.
    async fn baseline(
        &mut self,
        keys: Vec<TopicKey>,
        follow: &mpsc::Sender<u16>,
    ) -> Result<HashMap<TopicKey, Position>, LogError> {
        let mut snapshot = self.snapshot(&keys).await?;
        let without: Vec<TopicKey> =
            keys.iter().filter(|k| !snapshot.heads.contains_key(*k)).cloned().collect();
        if !without.is_empty() {
            ask(self.commands.clone(), |reply| Command::Ensure { keys: without, reply }).await?;
            snapshot = self.snapshot(&keys).await?;
        }
        for key in &keys {
            if !snapshot.heads.contains_key(key) {
                return Err(LogError::Internal(format!("topic {} has no head", key.topic)));
            }
            let partition = partition_of(key, PARTITIONS);
            let sequence = snapshot.sequences.get(&partition).copied().unwrap_or_default();
            let followed = self.partitions.entry(partition).or_insert_with(|| {
                let _ = follow.try_send(partition);
                Followed { sequence, wanted: HashMap::new() }
            });
            followed.wanted.insert(key.clone(), snapshot.heads[key].epoch.clone());
            self.wanted.write().insert(key.clone());
        }
        Ok(snapshot.heads)
    }

    async fn snapshot(&self, keys: &[TopicKey]) -> Result<Snapshot, LogError> {
        let query = sqlx::query(
            "select p.partition, p.sequence, w.application_id, w.environment, w.topic, t.epoch, t.last_offset \
             from unnest($1::smallint[], $2::text[], $3::text[], $4::text[]) \
                  as w(partition, application_id, environment, topic) \
             join event_log_partitions p using (partition) \
             left join event_log_topics t \
               on t.application_id = w.application_id and t.environment = w.environment and t.topic = w.topic \
              and t.is_current",
        )
        .bind(keys.iter().map(|k| partition_of(k, PARTITIONS) as i16).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|k| k.topic.as_str()).collect::<Vec<_>>())
        .fetch_all(&self.pool);
        let found = within(TIMEOUT, query).await?;
        Snapshot::of(&found).map_err(super::failed)
    }

    /// Reads what the partitions gained, page by page.
    async fn read(&mut self, mut dirty: BTreeSet<u16>) -> Result<(), LogError> {
        while !dirty.is_empty() {
            let from: BTreeMap<u16, u64> =
                dirty.iter().filter_map(|p| Some((*p, self.partitions.get(p)?.sequence))).collect();
            let found = self.page(&from).await?;
            let mut counts: HashMap<u16, i64> = HashMap::new();
            let mut events = Vec::new();
            for row in &found {
                let partition = row.try_get::<i16, _>("partition").map_err(super::failed)? as u16;
                let sequence = row.try_get::<i64, _>("sequence").map_err(super::failed)?.unsigned_abs();
                *counts.entry(partition).or_default() += 1;
                let Some(followed) = self.partitions.get_mut(&partition) else { continue };
                if sequence != followed.sequence + 1 {
                    self.metrics.log_gaps.inc();
                }
                followed.sequence = sequence;
                if row.try_get::<Option<&str>, _>("payload").map_err(super::failed)?.is_some() {
                    let event = rows::event(row).map_err(super::failed)?;
                    if followed.takes(&event) {
                        events.push(event);
                    }
                }
            }
            self.emit(events).await;
            dirty.retain(|partition| counts.get(partition).is_some_and(|&count| count == PAGE));
        }
        Ok(())
    }

    async fn page(&self, from: &BTreeMap<u16, u64>) -> Result<Vec<sqlx::postgres::PgRow>, LogError> {
        let wanted: Vec<&str> = from
            .keys()
            .filter_map(|p| self.partitions.get(p))
            .flat_map(|followed| followed.wanted.keys().map(|key| key.topic.as_str()))
            .take(NAMED + 1)
            .collect();
        let named = (wanted.len() <= NAMED).then_some(wanted);
        let query = sqlx::query(
            "select e.partition, e.sequence, t.application_id, t.environment, t.topic, t.epoch, e.topic_offset, \
                    e.event_id, e.source, e.event_type, e.metadata, \
                    case when $3::text[] is null or t.topic = any($3) then e.payload end as payload \
             from unnest($1::smallint[], $2::bigint[]) as f(partition, sequence) \
             cross join lateral ( \
                 select * from event_log l where l.partition = f.partition and l.sequence > f.sequence \
                 order by l.sequence limit $4) e \
             join event_log_topics t on t.id = e.topic_id \
             order by e.partition, e.sequence",
        )
        .bind(from.keys().map(|&p| p as i16).collect::<Vec<_>>())
        .bind(from.values().map(|&s| s as i64).collect::<Vec<_>>())
        .bind(named)
        .bind(PAGE)
        .fetch_all(&self.pool);
        within(TIMEOUT, query).await
    }
}

mod epochs;

struct Snapshot {
    sequences: HashMap<u16, u64>,
    heads: HashMap<TopicKey, Position>,
}

impl Snapshot {
    fn of(found: &[sqlx::postgres::PgRow]) -> Result<Self, sqlx::Error> {
        let (mut sequences, mut heads) = (HashMap::new(), HashMap::new());
        for row in found {
            let partition = row.try_get::<i16, _>("partition")? as u16;
            sequences.insert(partition, row.try_get::<i64, _>("sequence")?.unsigned_abs());
            if let Some(epoch) = row.try_get::<Option<&str>, _>("epoch")? {
                let offset = row.try_get::<i64, _>("last_offset")?.unsigned_abs();
                heads.insert(rows::key(row)?, Position::new(epoch, offset));
            }
        }
        Ok(Self { sequences, heads })
    }
}

/// Listens on the channels of followed partitions and passes on what it hears: a partition and its sequence, or
/// nothing but that notices may have been missed.
async fn listen(pool: PgPool, mut follow: mpsc::Receiver<u16>, heard: mpsc::Sender<(Option<u16>, u64)>) {
    let mut partitions = BTreeSet::new();
    loop {
        match follow_with(&pool, &mut partitions, &mut follow, &heard).await {
            Ok(()) => return,
            Err(error) => tracing::debug!(%error, "not listening for appended events; trying again"),
        }
        tokio::time::sleep(RELISTEN).await;
        let _ = heard.try_send((None, 0));
    }
}

async fn follow_with(
    pool: &PgPool,
    partitions: &mut BTreeSet<u16>,
    follow: &mut mpsc::Receiver<u16>,
    heard: &mpsc::Sender<(Option<u16>, u64)>,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    for &partition in partitions.iter() {
        listener.listen(&notify::channel(partition)).await?;
    }
    loop {
        tokio::select! {
            partition = follow.recv() => {
                let Some(partition) = partition else { return Ok(()) };
                if partitions.insert(partition) {
                    listener.listen(&notify::channel(partition)).await?;
                    let _ = heard.try_send((None, 0));
                }
            }
            notice = listener.try_recv() => {
                // A full queue loses nothing: the reader looks by itself.
                let _ = match notice? {
                    Some(notice) => {
                        let sequence = notice.payload().parse().unwrap_or(UNTOLD);
                        heard.try_send((notify::partition(notice.channel()), sequence))
                    }
                    None => heard.try_send((None, 0)),
                };
            }
        }
    }
}
