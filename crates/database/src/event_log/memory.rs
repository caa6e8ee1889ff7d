//! What this process knows of the log since its own last commit.
//!
//! Valid for a partition only as long as its sequence has not moved, and no topic of it has got a new epoch, without this
//! process; whoever holds the partition's lock finds out.

use super::{
    plan::{Head, SourceState, Stored},
    unit::partition,
};
use event_log::TopicKey;
use std::{collections::HashMap, sync::Arc};

/// How many topics are remembered for each partition before they are read again.
const REMEMBERED: usize = 10_000;
/// How many sources are remembered for each partition before they are read again: each backfill is one.
const REMEMBERED_SOURCES: usize = 1_000;

/// Heads and source positions, by partition.
#[derive(Default)]
pub struct Memory {
    generation: String,
    partitions: HashMap<u16, Remembered>,
}

#[derive(Default)]
struct Remembered {
    sequence: u64,
    renewals: i64,
    topics: HashMap<TopicKey, Head>,
    sources: HashMap<Arc<str>, SourceState>,
}

impl Memory {
    /// The store's generation, with which epochs begin.
    pub fn generation(&self) -> &str {
        &self.generation
    }

    /// Compares with what the locked partition says, and forgets what no longer holds.
    pub fn check(&mut self, generation: String, partition: u16, sequence: u64, renewals: i64) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        let has_moved = |known: &Remembered| known.sequence != sequence || known.renewals != renewals;
        if self.partitions.get(&partition).is_some_and(has_moved) {
            self.partitions.remove(&partition);
        }
    }

    /// The topic's head, where it is known.
    pub fn head(&self, key: &TopicKey) -> Option<&Head> {
        self.partitions.get(&partition(key))?.topics.get(key)
    }

    /// How far the source has been appended in the partition, where that is known.
    pub fn source(&self, partition: u16, source: &Arc<str>) -> Option<&SourceState> {
        self.partitions.get(&partition)?.sources.get(source)
    }

    /// Takes over what a committed transaction left behind.
    pub fn remember(&mut self, stored: Stored) {
        for (&partition, &sequence) in &stored.sequences {
            let known = self.partitions.entry(partition).or_default();
            known.sequence = sequence;
            known.renewals = stored.renewals.get(&partition).copied().unwrap_or_default();
        }
        for (key, head) in stored.topics {
            let known = self.partitions.entry(partition(&key)).or_default();
            if known.topics.len() >= REMEMBERED {
                known.topics.clear();
            }
            known.topics.insert(key, head);
        }
        for ((partition, source), state) in stored.sources {
            let state = SourceState { moved: false, ..state };
            let known = self.partitions.entry(partition).or_default();
            if known.sources.len() >= REMEMBERED_SOURCES {
                known.sources.clear();
            }
            known.sources.insert(source, state);
        }
    }
}
