//! Carries one partition's batches to Redis: each under a writer's growing number, again until it is answered, and only
//! under the generation that holds.

use super::{
    Ground,
    batch::{self, Answer, Fate},
    group::Group,
    lane::PATIENCE,
};
use crate::{
    connection::{linked, run_script},
    error::RedisError,
    event_log::{
        batch::{Address, Heads},
        lane::now_ms,
    },
    generation::Settled,
    keys::Partition,
};
use event_log::TopicKey;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How long to wait before a batch is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// One partition's.
pub struct Courier {
    partition: Partition,
    ground: Arc<Ground>,
    writers: [Writer; 2],
    heads: Mutex<Heads>,
}

/// Has one batch under way at a time.
struct Writer {
    name: String,
    sent: AtomicU64,
}

impl Courier {
    /// One that has carried nothing yet.
    pub fn new(partition: Partition, ground: Arc<Ground>) -> Self {
        let writers = ["d", "e"].map(|letter| Writer {
            name: format!("{}{letter}", ground.shore.writer),
            sent: AtomicU64::new(0),
        });
        Self { partition, ground, writers, heads: Mutex::default() }
    }

    /// Sends the batch under the writer of this number, which has nothing under way, until it is answered, or one of its
    /// tasks has waited for too long.
    ///
    /// # Errors
    /// `Unavailable` where it is not known what became of it, or `Internal`.
    pub async fn send(
        &self,
        writer: usize,
        groups: &[Group],
    ) -> Result<(Arc<Settled>, Vec<Fate>), RedisError> {
        let number = 1 + self.writers[writer].sent.fetch_add(1, Ordering::Relaxed);
        let ground = self.ground.clone();
        let shore = &ground.shore;
        let deadlines = groups.iter().flat_map(|group| &group.tasks).map(|task| task.deadline);
        let deadline = deadlines.min().unwrap_or_else(Instant::now);
        let events = groups.iter().flat_map(|group| &group.events);
        let renewed = shore.tally.count(events.map(|(topic, event)| (topic, event.len())));
        let not_renewed = |error| {
            shore.tally.not_renewed(&renewed);
            error
        };
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let settled = shore.guard.settled(patience).await.map_err(not_renewed)?;
            let error = match self.try_once((writer, number), &settled, groups, &renewed).await {
                Ok(Some(fates)) => return Ok((settled, fates)),
                Ok(None) | Err(RedisError::UnknownScript) => {
                    shore.guard.doubt(&settled);
                    continue;
                }
                Err(error) => error,
            };
            if Instant::now() + RETRY >= deadline || matches!(error, RedisError::Internal(_)) {
                return Err(not_renewed(error));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Sends the batch once; `None` where its generation is no longer the server's.
    async fn try_once(
        &self,
        (writer, number): (usize, u64),
        settled: &Arc<Settled>,
        groups: &[Group],
        renewed: &HashSet<TopicKey>,
    ) -> Result<Option<Vec<Fate>>, RedisError> {
        let shore = &self.ground.shore;
        let link = linked(&shore.links, PATIENCE).await?;
        let own = shore.own.lock().clone();
        let address = Address {
            partition: self.partition,
            writer: &self.writers[writer].name,
            number,
            settled,
            announcing: link.announcing,
            settings: &shore.settings,
            own: &own,
            now_ms: now_ms(),
        };
        let batch = {
            let mut heads = self.heads.lock();
            let batch = batch::write(&address, groups, self.ground.ttl, renewed, &heads);
            heads.send(&batch.topics);
            batch
        };
        let script = &settled.scripts.documents.write;
        let answer = run_script(&link.writes, script, self.partition, batch.keys, batch.arguments).await;
        self.heads.lock().settle(&batch.topics);
        match batch::read(answer?, groups.len()) {
            Some(Answer::Taken { fates, sequence, heads }) => {
                let topics = batch.topics.into_iter().map(|(topic, _)| topic);
                self.heads.lock().learn(topics.zip(heads));
                shore.guard.acknowledge(settled, self.partition, sequence);
                Ok(Some(fates))
            }
            Some(Answer::OtherGeneration) => Ok(None),
            Some(Answer::Overtaken) => {
                Err(RedisError::Internal("the batch was overtaken by a later one".to_owned()))
            }
            None => Err(RedisError::Internal("the answer to a write of documents cannot be read".to_owned())),
        }
    }
}
