//! Carries one partition's batches to Redis: under a growing number, again until it is answered, and only under the
//! generation that holds.

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
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long to wait before a batch is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// One partition's.
pub struct Courier {
    partition: Partition,
    ground: Arc<Ground>,
    writer: String,
    number: u64,
    heads: Heads,
}

impl Courier {
    /// One that has carried nothing yet.
    pub fn new(partition: Partition, ground: Arc<Ground>) -> Self {
        let writer = format!("{}d", ground.shore.writer);
        Self { partition, ground, writer, number: 0, heads: Heads::default() }
    }

    /// Sends the batch until it is answered, or one of its tasks has waited for too long.
    ///
    /// # Errors
    /// `Unavailable` where it is not known what became of it, or `Internal`.
    pub async fn send(&mut self, groups: &[Group]) -> Result<(Arc<Settled>, Vec<Fate>), RedisError> {
        self.number += 1;
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
            let error = match self.try_once(&settled, groups, &renewed).await {
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
        &mut self,
        settled: &Arc<Settled>,
        groups: &[Group],
        renewed: &HashSet<TopicKey>,
    ) -> Result<Option<Vec<Fate>>, RedisError> {
        let shore = &self.ground.shore;
        let link = linked(&shore.links, PATIENCE).await?;
        let own = shore.own.lock().clone();
        let address = Address {
            partition: self.partition,
            writer: &self.writer,
            number: self.number,
            settled,
            announcing: link.announcing,
            settings: &shore.settings,
            own: &own,
            now_ms: now_ms(),
        };
        let batch = batch::write(&address, groups, self.ground.ttl, renewed, &self.heads);
        let script = &settled.scripts.documents.write;
        let answer = run_script(&link.writes, script, self.partition, batch.keys, batch.arguments).await?;
        match batch::read(answer, groups.len()) {
            Some(Answer::Taken { fates, sequence, heads }) => {
                self.heads.learn(batch.topics.into_iter().zip(heads));
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
