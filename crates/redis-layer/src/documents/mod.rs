//! Documents on Redis.
//!
//! Owns the `syncdoc:data` and `syncdoc:unflushed` keys. Redis holds the truth while a document is hot: one lane a
//! partition applies edits and writes document, revisions and events in one atomic step (`lane`); what was written is
//! flushed to the archive right after that (`parting`), and by the sweep where that did not happen (`sweep`). Reading a
//! single document goes to Redis; lists and revisions are read from the archive, behind a flush of what they would lack,
//! and what is due as it stands there.

mod batch;
mod cache;
mod courier;
mod encode;
mod flush;
mod group;
mod lane;
mod parting;
mod server;
mod sweep;
mod turns;

use crate::{
    event_log::{RedisEventLog, lane::Shore},
    keys::Partition,
};
use document_store::{
    Document, DocumentArchive, DocumentKey, DocumentPage, DocumentQuery, DocumentStore, Durability, Edit,
    RevisionPage, RevisionQuery, ServiceKey, StoreError,
};
use event_log::TopicKey;
use futures::future::BoxFuture;
use group::{Task, Work};
use lane::{Command, Lane};
use parting::Parting;
use server::Read;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use sweep::Sweep;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use turns::Turns;

/// Tasks that may wait for a lane before callers wait in turn.
const QUEUE: usize = 4_096;
/// How long the last flush may take when the process stops.
const LAST: Duration = Duration::from_secs(8);

/// How much is not in the archive yet, over all processes, as last measured.
#[derive(Debug, Default)]
pub struct UnflushedDocuments {
    /// Documents.
    pub count: AtomicU64,
    /// For how long the oldest waits, in milliseconds.
    pub lag_ms: AtomicU64,
    /// Whether it is so much that no further write is taken.
    pub is_full: AtomicBool,
}

/// What all parts of the store share.
struct Ground {
    shore: Arc<Shore>,
    archive: Arc<dyn DocumentArchive>,
    /// How long a document stays hot that is flushed and not used.
    ttl: Duration,
    is_failing: AtomicBool,
    turns: Turns,
}

impl Ground {
    fn failing(&self, error: &StoreError) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "documents cannot be flushed for now; they stay in redis");
        }
    }

    fn succeeding(&self) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("documents are flushed again");
        }
    }
}

/// The document store on Redis, one a process, beside the process's event log.
pub struct RedisDocumentStore {
    ground: Arc<Ground>,
    lanes: Arc<[mpsc::Sender<Command>]>,
}

impl RedisDocumentStore {
    /// Starts the lanes, the flusher and the sweep in `tasks`, over the connections of `log`; they end with `stop`, after
    /// a last flush. `ttl` is how long a document stays hot that is flushed and not used.
    pub fn start(
        log: &RedisEventLog,
        archive: Arc<dyn DocumentArchive>,
        ttl: Duration,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (shore, user) = log.share();
        let ground = Arc::new(Ground {
            shore,
            archive,
            ttl,
            is_failing: AtomicBool::new(false),
            turns: Turns::default(),
        });
        let (lanes, queues): (Vec<_>, Vec<_>) = Partition::all().map(|_| mpsc::channel(QUEUE)).unzip();
        let lanes: Arc<[mpsc::Sender<Command>]> = lanes.into();
        let (parting, flusher, parted) = parting::start(ground.clone(), lanes.clone());
        let remembered = Arc::default();
        for (partition, queue) in Partition::all().zip(queues) {
            let (parting, remembered): (Parting, Arc<cache::Remembered>) =
                (parting.clone(), Arc::clone(&remembered));
            let lane = Lane::new(partition, ground.clone(), queue, parting, remembered, user.clone());
            tasks.spawn(lane.run(stop.clone()));
        }
        drop(parting);
        tasks.spawn(Sweep::new(ground.clone(), lanes.clone(), parted.clone()).run(stop.clone()));
        let last = Sweep::new(ground.clone(), lanes.clone(), parted);
        tasks.spawn(async move {
            let too_late = async {
                stop.cancelled().await;
                tokio::time::sleep(LAST).await;
            };
            tokio::select! {
                () = async { flusher.run().await; last.last(LAST).await } => {}
                () = too_late => tracing::warn!("documents are left to be flushed by another process"),
            }
            drop(user);
        });
        Arc::new(Self { ground, lanes })
    }
}

impl DocumentStore for RedisDocumentStore {
    fn commit(
        &self,
        key: &DocumentKey,
        edit: Edit,
        durability: Durability,
    ) -> BoxFuture<'static, Result<Document, StoreError>> {
        let shore = &self.ground.shore;
        if shore.full.load(Ordering::Relaxed) {
            return Box::pin(async { Err(StoreError::BacklogFull) });
        }
        if shore.unflushed.is_full.load(Ordering::Relaxed) {
            return Box::pin(async { Err(StoreError::TooManyUnflushed) });
        }
        let (reply, answer) = oneshot::channel();
        let work = Work::Edit { edit, durability, reply };
        let task = Task { key: key.clone(), work, deadline: Instant::now() + lane::PATIENCE };
        let lane = self.lanes[usize::from(Partition::of_document(key).0)].clone();
        Box::pin(async move {
            let stopped = || StoreError::Unavailable("the store is stopping".to_owned());
            lane.send(Command::Task(task)).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        })
    }

    fn get(&self, key: &DocumentKey) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            match server::read(&self.ground, &key).await? {
                Read::Here(here) => Ok(Some(here.document)),
                Read::Uncertain { .. } => flush::look(&self.lanes, &key).await,
            }
        })
    }

    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'_, Result<DocumentPage, StoreError>> {
        let service = service.clone();
        Box::pin(async move {
            let topic = document_store::Change::Updated.topic(&service.service);
            let partition = Partition::of(&TopicKey { scope: service.scope.clone(), topic });
            let is_listed = |key: &DocumentKey| key.scope == service.scope && key.service == service.service;
            sweep::flush_partition(&self.ground, &self.lanes, partition, is_listed).await?;
            self.ground.archive.list(&service, query).await
        })
    }

    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'_, Result<RevisionPage, StoreError>> {
        let key = key.clone();
        Box::pin(async move {
            let partition = Partition::of_document(&key);
            let only = std::slice::from_ref(&key);
            flush::flush_from_redis(&self.ground, &self.lanes, partition, only).await?;
            self.ground.archive.revisions(&key, query).await
        })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'_, Result<Vec<DocumentKey>, StoreError>> {
        self.ground.archive.due(now_ms, limit)
    }

    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.ground.archive.forget_revisions(before_ms)
    }
}
