//! `realtime_events_received_total`, whose `topic` label must stay bounded.
//!
//! Owns which topics have a child of their own. The first [`TOPIC_LABEL_LIMIT`] distinct topics have;
//! later ones are counted together, so that neither memory nor a scrape grows with tenants' topics.

use ahash::AHashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec};

/// How many topics have a counter of their own.
pub const TOPIC_LABEL_LIMIT: usize = 200;

/// The label under which everything beyond the limits is counted.
pub const OTHER: &str = "other";

const SOURCES: [&str; 4] = ["database", "sync", "socket", OTHER];

type BySource = [IntCounter; SOURCES.len()];

/// Counters by source and topic, with children cached so that counting is one lookup.
///
/// The map is replaced whole on a new topic (at most [`TOPIC_LABEL_LIMIT`] times in a process's life),
/// so that the hot path reads without a lock.
pub(crate) struct ReceivedByTopic {
    family: IntCounterVec,
    by_topic: ArcSwap<AHashMap<Box<str>, BySource>>,
    other: BySource,
    growing: Mutex<()>,
}

impl ReceivedByTopic {
    /// Takes the registered family with the labels `source` and `topic`.
    pub(crate) fn new(family: IntCounterVec) -> Self {
        let other = children(&family, OTHER);
        Self { family, by_topic: ArcSwap::default(), other, growing: Mutex::new(()) }
    }

    pub(crate) fn count(&self, source: &str, topic: &str, events: u64) {
        let source = SOURCES.iter().position(|known| *known == source).unwrap_or(SOURCES.len() - 1);
        let by_topic = self.by_topic.load();
        match by_topic.get(topic) {
            Some(counters) => counters[source].inc_by(events),
            None if by_topic.len() >= TOPIC_LABEL_LIMIT => self.other[source].inc_by(events),
            None => self.add(topic)[source].inc_by(events),
        }
    }

    /// The counters of a topic that was not in the map when it was last read.
    fn add(&self, topic: &str) -> BySource {
        let _growing = self.growing.lock();
        let current = self.by_topic.load_full();
        if let Some(counters) = current.get(topic) {
            return counters.clone();
        }
        if current.len() >= TOPIC_LABEL_LIMIT || topic == OTHER {
            return self.other.clone();
        }
        let counters = children(&self.family, topic);
        let mut grown = AHashMap::clone(&current);
        grown.insert(topic.into(), counters.clone());
        self.by_topic.store(grown.into());
        counters
    }
}

fn children(family: &IntCounterVec, topic: &str) -> BySource {
    SOURCES.map(|source| family.with_label_values(&[source, topic]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Opts;

    fn family() -> IntCounterVec {
        IntCounterVec::new(Opts::new("received", "received"), &["source", "topic"]).unwrap()
    }

    #[test]
    fn topics_beyond_the_limit_are_counted_together() {
        let family = family();
        let received = ReceivedByTopic::new(family.clone());
        for n in 0..TOPIC_LABEL_LIMIT + 50 {
            received.count("socket", &format!("topic.n{n}"), 1);
            received.count("socket", &format!("topic.n{n}"), 1);
        }
        assert_eq!(received.by_topic.load().len(), TOPIC_LABEL_LIMIT);
        assert_eq!(family.with_label_values(&["socket", "topic.n0"]).get(), 2);
        assert_eq!(family.with_label_values(&["socket", OTHER]).get(), 100);
    }

    #[test]
    fn an_unknown_source_is_other() {
        let family = family();
        let received = ReceivedByTopic::new(family.clone());
        received.count("elsewhere", "a.b", 3);
        assert_eq!(family.with_label_values(&[OTHER, "a.b"]).get(), 3);
    }

    #[test]
    fn many_threads_lose_no_count() {
        let family = family();
        let received = ReceivedByTopic::new(family.clone());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..4_000 {
                        received.count("sync", &format!("topic.n{}", n % 400), 1);
                    }
                });
            }
        });
        let topics = (0..400).map(|n| format!("topic.n{n}"));
        let cached: Vec<String> =
            topics.filter(|topic| received.by_topic.load().contains_key(topic.as_str())).collect();
        let own: u64 =
            cached.iter().map(|topic| family.with_label_values(&["sync", topic.as_str()]).get()).sum();
        assert_eq!(cached.len(), TOPIC_LABEL_LIMIT);
        assert_eq!(own + family.with_label_values(&["sync", OTHER]).get(), 16_000);
    }
}
