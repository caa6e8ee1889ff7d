//! The writer of one partition's documents: applies edits to what it remembers, and writes what they come to as one
//! script, which takes them where Redis still holds what they were applied to.
//!
//! Of each document one batch at a time is under way. What comes meanwhile goes into the next one, so that many edits of
//! a document are one write. A lane that has Redis to itself, and much to do, halves its documents: while one half is
//! written, edits are applied to the other. An edit that met something else is applied again to what the answer brought;
//! a document that Redis does not have is loaded while others go on.

use super::{
    Ground, Parting,
    batch::Fate,
    cache::{Cache, Hot, Remembered},
    courier::Courier,
    encode,
    group::{Base, Group, Leftovers, Loaded, Outcome, Task, Work},
    parting::Flush,
    turns::Turn,
};
use crate::{error::RedisError, generation::Settled, keys::Partition};
use ahash::{AHashMap, RandomState};
use document_store::{Archived, Document, DocumentKey, Durability, StoreError};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a task is tried.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// Documents in one script at most.
const GROUPS: usize = 128;
/// Of these, how many of which it is not known what Redis holds, and whose answer may be large.
const UNKNOWN: usize = 32;
/// Tasks in one script at most.
const TASKS: usize = 512;
/// Bytes in one script, beyond which no further document joins.
const BYTES: usize = 2 << 20;
/// Bytes of documents beyond which they are not edited between two turns of other tasks.
const LARGE: usize = 256 << 10;
/// Tasks that are taken from the queue before they are done.
const TAKEN: usize = 4_096;

/// Tasks for which it is worth to halve the documents.
const MUCH: usize = 8;

/// What a lane is asked to do.
pub enum Command {
    /// Work on a document.
    Task(Task),
    /// The archive holds more than Redis did: see which is right.
    Doubt(DocumentKey),
}

/// Documents that were asked of the archive: each with its head in Redis and, where it is there, the document.
type Asked = Vec<(DocumentKey, String, Option<Document>)>;
/// These, with the generation in which they were asked for, and what the archive holds of each.
type Found = (Asked, Arc<str>, Result<Vec<Archived>, StoreError>);

/// A batch that was written, or not: the half it is of, and since when it was under way.
type Sent = (usize, Vec<Group>, Instant, Result<(Arc<Settled>, Vec<Fate>), RedisError>);

/// Which documents are being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    Nothing,
    /// Of both halves.
    All,
    /// Of this half.
    Half(usize),
    /// Of each half, by a batch of its own.
    Halves,
}

/// The task's state.
pub struct Lane {
    partition: Partition,
    ground: Arc<Ground>,
    queue: mpsc::Receiver<Command>,
    parting: Parting,
    courier: Arc<Courier>,
    cache: Cache,
    /// By half.
    ready: [VecDeque<Task>; 2],
    halves: RandomState,
    writing: Writing,
    under_way: FuturesUnordered<BoxFuture<'static, Sent>>,
    /// Tasks on documents that are being loaded.
    waiting: AHashMap<DocumentKey, Vec<Task>>,
    /// How many those are.
    waiting_count: usize,
    loads: FuturesUnordered<BoxFuture<'static, Found>>,
    loaded: AHashMap<DocumentKey, Loaded>,
    doubted: HashSet<DocumentKey>,
    /// Keeps the connections open until the lane is done.
    _user: mpsc::Sender<()>,
}

impl Lane {
    /// A lane that takes from `queue`, and parts with what it has written to `parting`.
    pub fn new(
        partition: Partition,
        ground: Arc<Ground>,
        queue: mpsc::Receiver<Command>,
        parting: Parting,
        remembered: Arc<Remembered>,
        user: mpsc::Sender<()>,
    ) -> Self {
        Self {
            partition,
            courier: Arc::new(Courier::new(partition, ground.clone())),
            ground,
            queue,
            parting,
            cache: Cache::new(remembered),
            ready: Default::default(),
            halves: RandomState::new(),
            writing: Writing::Nothing,
            under_way: FuturesUnordered::new(),
            waiting: AHashMap::new(),
            waiting_count: 0,
            loads: FuturesUnordered::new(),
            loaded: AHashMap::new(),
            doubted: HashSet::new(),
            _user: user,
        }
    }

    /// Runs until `stop`, then does what is still queued.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut stopping = false;
        let mut open = true;
        loop {
            self.write().await;
            if !open && self.is_done() {
                return;
            }
            tokio::select! {
                biased;
                Some(sent) = self.under_way.next(), if !self.under_way.is_empty() => self.take_sent(sent).await,
                Some(found) = self.loads.next(), if !self.loads.is_empty() => self.take_found(found),
                command = self.queue.recv(), if open && self.may_begin() && self.has_room() => match command {
                    Some(command) => self.take(command),
                    None => open = false,
                },
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.queue.close();
                }
            }
        }
    }

    fn ready_count(&self) -> usize {
        self.ready.iter().map(VecDeque::len).sum()
    }

    fn has_room(&self) -> bool {
        self.ready_count() + self.waiting_count < TAKEN
    }

    /// Whether a task that comes now may be begun. The others wait in the queue.
    fn may_begin(&self) -> bool {
        matches!(self.writing, Writing::Nothing | Writing::Half(_))
    }

    fn is_done(&self) -> bool {
        self.ready_count() == 0 && self.under_way.is_empty() && self.loads.is_empty()
    }

    fn take(&mut self, command: Command) {
        let task = match command {
            Command::Task(task) => task,
            Command::Doubt(key) => {
                self.cache.forget(&key);
                self.doubted.insert(key.clone());
                let (reply, _) = oneshot::channel();
                Task { key, work: Work::Look { reply }, deadline: Instant::now() + PATIENCE }
            }
        };
        self.ready[self.half_of(&task.key)].push_back(task);
    }

    fn take_queued(&mut self) {
        while self.has_room()
            && let Ok(command) = self.queue.try_recv()
        {
            self.take(command);
        }
    }

    /// In which half a document is, always.
    fn half_of(&self, key: &DocumentKey) -> usize {
        (self.halves.hash_one(key) & 1) as usize
    }

    /// Puts under way what is ready, and may be.
    async fn write(&mut self) {
        while self.writing == Writing::Nothing && self.ready_count() > 0 {
            let turn = self.ground.turns.take().await;
            self.take_queued();
            let halved = self.ground.turns.is_free() && self.ready_count() >= MUCH;
            let first = usize::from(self.ready[0].is_empty());
            self.begin(if halved { Writing::Half(first) } else { Writing::All }, turn).await;
        }
        if let Writing::Half(half) = self.writing {
            self.take_queued();
            if !self.ready[1 - half].is_empty()
                && let Some(turn) = self.ground.turns.try_take()
            {
                self.begin(Writing::Half(1 - half), Some(turn)).await;
            }
        }
    }

    /// Puts what is ready of these documents under way, where that is anything.
    async fn begin(&mut self, which: Writing, turn: Option<Turn>) {
        let groups = self.form(which);
        if groups.is_empty() {
            return;
        }
        let begun = Instant::now();
        let Some(groups) = applied(groups).await else { return };
        let groups = self.bounded(groups);
        let writer = match which {
            Writing::Half(half) => half,
            _ => 0,
        };
        let courier = self.courier.clone();
        self.under_way.push(Box::pin(async move {
            let sent = courier.send(writer, &groups).await;
            drop(turn);
            (writer, groups, begun, sent)
        }));
        self.writing = if self.writing == Writing::Nothing { which } else { Writing::Halves };
    }

    /// Takes tasks, by document, within the bounds of a script.
    fn form(&mut self, which: Writing) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut numbers: AHashMap<DocumentKey, usize> = AHashMap::new();
        let (mut unknown, mut bytes, now) = (0, 0, Instant::now());
        for _ in 0..TASKS {
            if groups.len() >= GROUPS || unknown >= UNKNOWN || bytes > BYTES {
                break;
            }
            let [zero, one] = &mut self.ready;
            let task = match which {
                Writing::Half(half) => self.ready[half].pop_front(),
                _ if zero.len() > one.len() => zero.pop_front(),
                _ => one.pop_front(),
            };
            let Some(task) = task else { break };
            if task.deadline <= now {
                task.work.fail(StoreError::Unavailable("no answer in time".to_owned()));
                continue;
            }
            if let Some(waiting) = self.waiting.get_mut(&task.key) {
                waiting.push(task);
                self.waiting_count += 1;
                continue;
            }
            let number = match numbers.get(&task.key) {
                Some(&number) => number,
                None => {
                    let group = Group::new(task.key.clone(), self.base(&task.key));
                    unknown += usize::from(matches!(group.base, Base::Unknown));
                    bytes += group.base_bytes();
                    groups.push(group);
                    numbers.insert(task.key.clone(), groups.len() - 1);
                    groups.len() - 1
                }
            };
            groups[number].tasks.push(task);
        }
        groups
    }

    fn base(&mut self, key: &DocumentKey) -> Base {
        if let Some(loaded) = self.loaded.remove(key) {
            return Base::Loaded(loaded);
        }
        self.cache.get(key).cloned().map_or(Base::Unknown, Base::Hot)
    }

    async fn take_sent(&mut self, (writer, groups, begun, sent): Sent) {
        self.writing = match self.writing {
            Writing::Halves => Writing::Half(1 - writer),
            _ => Writing::Nothing,
        };
        match sent {
            Ok((settled, fates)) => {
                let count: usize = groups
                    .iter()
                    .zip(&fates)
                    .filter(|(_, fate)| **fate == Fate::Done)
                    .map(|(group, _)| group.writes.len())
                    .sum();
                let metrics = &self.ground.shore.metrics;
                if count > 0 {
                    metrics.appends.inc_by(count as u64);
                    metrics.append_batch_size.observe(count as f64);
                    metrics.append_seconds.observe(begun.elapsed().as_secs_f64());
                }
                self.finish(&settled, groups, fates).await;
            }
            Err(error) => {
                tracing::warn!(%error, log.partition = self.partition.0, "could not write documents");
                let tasks = groups.into_iter().flat_map(Group::into_tasks);
                tasks.for_each(|task| task.work.fail(error.clone().into()));
            }
        }
    }

    /// Puts off what would make the script too large.
    fn bounded(&mut self, groups: Vec<Group>) -> Vec<Group> {
        let (mut bytes, mut kept, mut rest) = (0, Vec::with_capacity(groups.len()), Vec::new());
        for group in groups {
            match bytes > BYTES {
                true => rest.push(group),
                false => {
                    bytes += group.bytes();
                    kept.push(group);
                }
            }
        }
        for group in rest {
            if let Base::Loaded(loaded) = &group.base {
                self.loaded.insert(group.key.clone(), loaded.clone());
            }
            self.again(group.into_tasks());
        }
        kept
    }

    /// Puts tasks back, before all others, in their order.
    fn again(&mut self, tasks: Vec<Task>) {
        for task in tasks.into_iter().rev() {
            self.ready[self.half_of(&task.key)].push_front(task);
        }
    }

    async fn finish(&mut self, settled: &Settled, groups: Vec<Group>, fates: Vec<Fate>) {
        let (mut asked, mut again) = (Asked::new(), Vec::new());
        for (group, fate) in groups.into_iter().zip(fates) {
            match fate {
                Fate::Done => self.done(settled, group).await,
                Fate::Unknown => {
                    self.cache.forget(&group.key);
                    again.extend(group.into_tasks());
                }
                Fate::Other { head, value } => {
                    if matches!(group.base, Base::Hot(_)) {
                        self.ground.shore.metrics.document_conflicts.inc_by(group.tasks.len() as u64);
                    }
                    self.other(settled, group, head, &value, &mut asked, &mut again);
                }
            }
        }
        self.again(again);
        if !asked.is_empty() {
            self.load(asked, settled.generation.as_str().into());
        }
    }

    /// Answers what was done, and parts with what was written.
    async fn done(&mut self, settled: &Settled, group: Group) {
        let Group { base, tasks, outcomes, writes, after, .. } = group;
        if let Some(document) = &after
            && (!writes.is_empty() || matches!(base, Base::Loaded(_)))
        {
            let head = encode::head(&settled.generation, document).into();
            self.cache.put(Hot { document: document.clone(), head });
        }
        let mut wanted = Vec::new();
        for (task, outcome) in tasks.into_iter().zip(outcomes) {
            match (task.work, outcome) {
                (Work::Edit { durability: Durability::Committed, reply, .. }, Outcome::Written(document)) => {
                    wanted.push((document, reply));
                }
                (Work::Edit { reply, .. }, Outcome::Written(document)) => {
                    drop(reply.send(Ok((*document).clone())));
                }
                (Work::Look { reply }, Outcome::Seen(document)) => {
                    drop(reply.send(Ok(document.map(|document| (*document).clone()))));
                }
                (work, Outcome::Refused(error)) => work.fail(error),
                (work, _) => work.fail(StoreError::Internal("an outcome of the wrong kind".to_owned())),
            }
        }
        if let (Some(document), false) = (after, writes.is_empty()) {
            let revisions = writes.into_iter().map(|write| write.revision).collect();
            self.parting.give(Flush { document, revisions, wanted }).await;
        }
    }

    /// Redis holds something else than what the group was applied to.
    fn other(
        &mut self,
        settled: &Settled,
        group: Group,
        head: String,
        value: &str,
        asked: &mut Asked,
        again: &mut Vec<Task>,
    ) {
        let key = group.key.clone();
        let is_certain = encode::generation_of(&head) == settled.generation && !self.doubted.contains(&key);
        let document = match encode::is_mark(&head) {
            true => None,
            false => match encode::document(&key, &head, value) {
                Ok(document) => Some(document),
                Err(error) => {
                    tracing::error!(%error, document.id = %key.id, "a document in redis cannot be read");
                    group.into_tasks().into_iter().for_each(|task| task.work.fail(error.clone().into()));
                    return;
                }
            },
        };
        match document {
            Some(document) if is_certain => {
                self.cache.put(Hot { document: Arc::new(document), head: head.into() });
                again.extend(group.into_tasks());
            }
            document => {
                self.cache.forget(&key);
                let tasks = group.into_tasks();
                self.waiting_count += tasks.len();
                self.waiting.insert(key.clone(), tasks);
                asked.push((key, head, document));
            }
        }
    }

    fn load(&mut self, asked: Asked, generation: Arc<str>) {
        let keys = asked.iter().map(|(key, ..)| key.clone()).collect();
        let found = self.ground.archive.load(keys);
        self.loads.push(Box::pin(async move { (asked, generation, found.await) }));
    }

    fn take_found(&mut self, (asked, generation, found): Found) {
        let found: Vec<Result<Archived, StoreError>> = match found {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => asked.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut again = Vec::new();
        for ((key, head, present), found) in asked.into_iter().zip(found) {
            let tasks = self.waiting.remove(&key).unwrap_or_default();
            self.waiting_count -= tasks.len();
            match found {
                Ok(Archived::NoScope) => tasks.into_iter().for_each(|task| nowhere(task.work)),
                Ok(found) => {
                    self.doubted.remove(&key);
                    let (document, leftovers) = reconciled(present, found);
                    let (head, generation) = (head.into(), generation.clone());
                    let loaded = Loaded { document: document.map(Arc::new), head, generation, leftovers };
                    self.loaded.insert(key, loaded);
                    again.extend(tasks);
                }
                Err(error) => tasks.into_iter().for_each(|task| task.work.fail(error.clone())),
            }
        }
        self.again(again);
    }
}

/// Applies all groups. Large ones are more work than a task may do between two turns.
async fn applied(mut groups: Vec<Group>) -> Option<Vec<Group>> {
    let apply = |mut groups: Vec<Group>| {
        groups.iter_mut().for_each(Group::apply);
        groups
    };
    if groups.iter().map(|group| group.base_bytes() * group.tasks.len()).sum::<usize>() > LARGE {
        // Edits that panic are caught where they are made.
        return tokio::task::spawn_blocking(move || apply(groups)).await.ok();
    }
    for group in &mut groups {
        group.apply();
        if group.bytes() > LARGE / 4 {
            tokio::task::yield_now().await;
        }
    }
    Some(groups)
}

/// Which of two states of a document holds: the higher revision, the archive's where they are equal and not the same.
/// What Redis holds of the same state is kept, with its unflushed revisions.
fn reconciled(present: Option<Document>, archived: Archived) -> (Option<Document>, Leftovers) {
    let archived = match archived {
        Archived::Document(document) => Some(document),
        Archived::Never | Archived::NoScope => None,
    };
    match (present, archived) {
        (Some(present), Some(archived)) if archived.revision >= present.revision && archived != present => {
            (Some(archived), Leftovers::Drop)
        }
        (Some(present), _) => (Some(present), Leftovers::Keep),
        (None, archived) => (archived, Leftovers::Keep),
    }
}

/// There is no such tenant: nothing is there, and nothing can be written.
fn nowhere(work: Work) {
    match work {
        Work::Look { reply } => drop(reply.send(Ok(None))),
        work => work.fail(StoreError::Internal("there is no such application".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use document_store::{DocumentId, ServiceName};
    use shared_types::{AppId, Environment, RawObject, Scope};

    fn made(revision: u64, data: &str) -> Document {
        Document {
            key: DocumentKey {
                scope: Scope::new(AppId::from_stored("app_a"), Environment::Staging),
                service: ServiceName::from_stored("notes"),
                id: DocumentId::from_stored("one"),
            },
            revision,
            data: RawObject::from_trusted(data),
            created_at: 5,
            updated_at: 6,
            expires_at: None,
            deleted: false,
        }
    }

    #[test]
    fn the_higher_revision_holds_and_the_archives_on_a_tie() {
        let held =
            |present: Option<&Document>, archived: &Archived| reconciled(present.cloned(), archived.clone());
        let (older, newer) = (made(4, "{\"a\":4}"), made(5, "{\"a\":5}"));
        let fork = made(5, "{\"b\":5}");
        let archive = |document: &Document| Archived::Document(document.clone());
        assert_eq!(held(Some(&older), &archive(&newer)), (Some(newer.clone()), Leftovers::Drop));
        assert_eq!(held(Some(&newer), &archive(&older)), (Some(newer.clone()), Leftovers::Keep));
        assert_eq!(held(Some(&newer), &archive(&fork)), (Some(fork), Leftovers::Drop));
        assert_eq!(held(Some(&newer), &archive(&newer)), (Some(newer.clone()), Leftovers::Keep));
        assert_eq!(held(Some(&newer), &Archived::Never), (Some(newer.clone()), Leftovers::Keep));
        assert_eq!(held(None, &archive(&newer)), (Some(newer), Leftovers::Keep));
        assert_eq!(held(None, &Archived::Never), (None, Leftovers::Keep));
    }
}
