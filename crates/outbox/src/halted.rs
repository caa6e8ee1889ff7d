//! Topics that stand still because an append failed, and for how long.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Topics that wait. A topic is forgotten with its first append that works.
#[derive(Debug, Default)]
pub struct Halted(HashMap<String, Halt>);

#[derive(Debug)]
struct Halt {
    until: Instant,
    wait: Duration,
    failures: u32,
    row: i64,
}

impl Halted {
    /// Stops `topic` at `row` for a while from `now`, longer each time; answers how often that row has failed.
    pub fn stop(&mut self, topic: &str, row: i64, now: Instant) -> u32 {
        let halt = self.0.entry(topic.to_owned()).or_insert(Halt {
            until: now,
            wait: FIRST_WAIT / 2,
            failures: 0,
            row,
        });
        halt.failures = if halt.row == row { halt.failures + 1 } else { 1 };
        halt.row = row;
        halt.wait = (halt.wait * 2).min(LONGEST_WAIT);
        halt.until = now + halt.wait;
        halt.failures
    }

    /// The topic goes on.
    pub fn release(&mut self, topic: &str) {
        self.0.remove(topic);
    }

    /// The topics that are to wait still.
    pub fn waiting(&self, now: Instant) -> Vec<String> {
        self.0.iter().filter(|(_, halt)| halt.until > now).map(|(topic, _)| topic.clone()).collect()
    }

    /// Forgets those of `topics` that do not wait any more: another worker has gone on with them, or somebody has taken
    /// their rows away.
    pub fn forget(&mut self, topics: &[String], waiting: &[String]) {
        self.0.retain(|topic, _| !topics.contains(topic) || waiting.contains(topic));
    }

    /// All that have not gone on yet.
    pub fn topics(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_waits_longer_each_time_until_it_goes_on() {
        let (mut halted, now) = (Halted::default(), Instant::now());
        assert_eq!(halted.stop("a", 7, now), 1);
        assert_eq!(halted.waiting(now), ["a"]);
        let later = now + FIRST_WAIT;
        assert!(halted.waiting(later).is_empty());
        assert_eq!(halted.topics(), ["a"]);
        assert_eq!(halted.stop("a", 7, later), 2);
        assert_eq!(halted.waiting(later + FIRST_WAIT), ["a"]);
        assert_eq!(halted.stop("a", 8, later), 1, "another row fails for the first time");
        halted.release("a");
        assert!(halted.topics().is_empty());
    }
}
