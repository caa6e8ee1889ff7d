//! What this process has appended to each topic since its history was last brought within its bounds.

use event_log::TopicKey;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// How often a history's lifetime is renewed.
const RENEW: Duration = Duration::from_secs(60);
/// How often a history that grows is trimmed by age.
const AGE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Grown {
    events: u64,
    bytes: u64,
    renewed: Option<Instant>,
    trimmed: Instant,
    appended: Instant,
}

/// The topics that this process appends to; those that it no longer appends to are forgotten.
#[derive(Default)]
pub struct Tally {
    topics: Mutex<HashMap<TopicKey, Grown>>,
}

/// How much may be appended before a history is trimmed in between.
#[derive(Clone, Copy)]
pub struct Due {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    /// Counts what a batch holds by topic; answers the topics whose history's lifetime is to be renewed.
    pub fn count<'a>(&self, entries: impl Iterator<Item = (&'a TopicKey, usize)>) -> HashSet<TopicKey> {
        let now = Instant::now();
        let mut topics = self.topics.lock();
        let mut due = HashSet::new();
        for (key, bytes) in entries {
            let grown = match topics.get_mut(key) {
                Some(grown) => grown,
                None => topics.entry(key.clone()).or_insert(Grown {
                    events: 0,
                    bytes: 0,
                    renewed: None,
                    trimmed: now,
                    appended: now,
                }),
            };
            grown.events += 1;
            grown.bytes += bytes as u64;
            grown.appended = now;
            if grown.renewed.is_none_or(|renewed| now.duration_since(renewed) > RENEW) {
                grown.renewed = Some(now);
                due.insert(key.clone());
            }
        }
        due
    }

    /// The batch was not appended: lifetimes that were to be renewed with it were not.
    pub fn not_renewed(&self, keys: &HashSet<TopicKey>) {
        let mut topics = self.topics.lock();
        for key in keys {
            if let Some(grown) = topics.get_mut(key) {
                grown.renewed = None;
            }
        }
    }

    /// Takes the topics whose histories are to be trimmed; forgets those without appends for `keep`.
    pub fn due(&self, limit: Due, keep: Duration, all: bool) -> Vec<TopicKey> {
        let now = Instant::now();
        let mut topics = self.topics.lock();
        topics.retain(|_, grown| now.duration_since(grown.appended) < keep + RENEW);
        let due = topics.iter_mut().filter(|(_, grown)| {
            let grew = grown.events >= limit.events || grown.bytes >= limit.bytes;
            all || grew || now.duration_since(grown.trimmed) > AGE
        });
        due.map(|(key, grown)| {
            (grown.events, grown.bytes, grown.trimmed) = (0, 0, now);
            key.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::{AppId, Environment, Scope, TopicName};

    #[test]
    fn what_has_grown_is_trimmed_once() {
        let key = TopicKey {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
            topic: TopicName::parse("a.b").expect("valid"),
        };
        let (tally, limit) = (Tally::default(), Due { events: 3, bytes: 1_000 });
        let keep = Duration::from_secs(900);
        assert_eq!(tally.count([(&key, 10)].into_iter()).len(), 1, "the first append renews");
        assert!(tally.count([(&key, 10)].into_iter()).is_empty());
        assert!(tally.due(limit, keep, false).is_empty());
        tally.count([(&key, 10)].into_iter());
        assert_eq!(tally.due(limit, keep, false).as_slice(), std::slice::from_ref(&key));
        assert!(tally.due(limit, keep, false).is_empty());
        tally.count([(&key, 1_000)].into_iter());
        assert_eq!(tally.due(limit, keep, false).as_slice(), std::slice::from_ref(&key));
        assert_eq!(tally.due(limit, keep, true), [key]);
    }
}
