//! What was sent and what came back: lost, duplicated, late, latencies, medians.
//!
//! Pure: it is told what happened and when. It knows nothing of connections.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// One receiver's view of the sequence numbers 0, 1, 2, …
#[derive(Debug, Default)]
pub struct SequenceTracker {
    next: u64,
    missing: BTreeSet<u64>,
    duplicates: u64,
    reordered: u64,
}

/// Whether a receipt was the first of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Not seen before.
    First,
    /// Seen before.
    Repeated,
}

impl SequenceTracker {
    /// Notes one received number.
    pub fn note(&mut self, sequence: u64) -> Receipt {
        if sequence >= self.next {
            self.missing.extend(self.next..sequence);
            self.next = sequence + 1;
            return Receipt::First;
        }
        if self.missing.remove(&sequence) {
            self.reordered += 1;
            return Receipt::First;
        }
        self.duplicates += 1;
        Receipt::Repeated
    }

    /// Numbers below `published` that never came.
    pub fn lost(&self, published: u64) -> u64 {
        self.missing.range(..published).count() as u64 + published.saturating_sub(self.next)
    }
}

/// Sums over all receivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Deliveries that never came.
    pub lost: u64,
    /// Deliveries that came more than once.
    pub duplicated: u64,
    /// Deliveries that came after a later one.
    pub reordered: u64,
}

impl Losses {
    /// What came to these sums since they were `before`. What was lost then and still came is not counted
    /// against it.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            lost: self.lost.saturating_sub(before.lost),
            duplicated: self.duplicated - before.duplicated,
            reordered: self.reordered - before.reordered,
        }
    }
}

/// Latency percentiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latencies {
    /// Median.
    pub p50_us: u64,
    /// 95th percentile.
    pub p95_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// A latency histogram of three significant digits, up to a minute.
#[derive(Debug)]
pub struct LatencyRecorder(Histogram<u64>);

impl Default for LatencyRecorder {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid"))
    }
}

impl LatencyRecorder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes one duration; longer than a minute counts as a minute.
    pub fn note(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentiles so far.
    pub fn latencies(&self) -> Latencies {
        Latencies {
            p50_us: self.0.value_at_quantile(0.50),
            p95_us: self.0.value_at_quantile(0.95),
            p99_us: self.0.value_at_quantile(0.99),
            max_us: self.0.max(),
        }
    }
}

struct Sent {
    at: Instant,
    receipts: u32,
}

/// The ledger of one run: every message, every receiver.
pub struct Ledger {
    expected_receipts: u32,
    sent: Vec<Sent>,
    receivers: Vec<SequenceTracker>,
    completed: u64,
    abandoned: u64,
    deliveries: u64,
    latencies: LatencyRecorder,
}

impl Ledger {
    /// A ledger for messages of which each should reach `expected_receipts` of the `receivers`.
    pub fn new(receivers: usize, expected_receipts: u32) -> Self {
        Self {
            expected_receipts,
            sent: Vec::new(),
            receivers: (0..receivers).map(|_| SequenceTracker::default()).collect(),
            completed: 0,
            abandoned: 0,
            deliveries: 0,
            latencies: LatencyRecorder::new(),
        }
    }

    /// The number that the next message gets.
    pub fn published(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Notes that the next message is sent now; returns its number.
    pub fn publish(&mut self, at: Instant) -> u64 {
        self.sent.push(Sent { at, receipts: 0 });
        self.published() - 1
    }

    /// Notes one receipt. True when it completes a message: all its receivers have it.
    pub fn receive(&mut self, receiver: usize, sequence: u64, at: Instant) -> bool {
        let Some(sent) = self.sent.get_mut(usize::try_from(sequence).unwrap_or(usize::MAX)) else {
            return false;
        };
        if self.receivers[receiver].note(sequence) == Receipt::Repeated {
            return false;
        }
        sent.receipts += 1;
        self.deliveries += 1;
        self.latencies.note(at.saturating_duration_since(sent.at));
        let complete = sent.receipts == self.expected_receipts;
        self.completed += u64::from(complete);
        complete
    }

    /// Messages that some receiver still lacks.
    pub fn under_way(&self) -> u64 {
        self.published().saturating_sub(self.completed + self.abandoned)
    }

    /// Stops waiting for what is under way; it stays lost unless it still comes.
    pub fn abandon(&mut self) {
        self.abandoned = self.published() - self.completed;
    }

    /// Begins to measure: latencies and deliveries from here on only.
    pub fn start_measuring(&mut self) {
        self.deliveries = 0;
        self.latencies = LatencyRecorder::new();
    }

    /// Deliveries since measuring began.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Latencies since measuring began.
    pub fn latencies(&self) -> Latencies {
        self.latencies.latencies()
    }

    /// What was lost or repeated, the warm-up included, where every receiver gets every message.
    pub fn losses(&self) -> Losses {
        let published = self.published();
        self.receivers
            .iter()
            .fold(self.repeats(), |sum, receiver| Losses { lost: sum.lost + receiver.lost(published), ..sum })
    }

    /// The same where a message is for some receivers only: lost is what nobody completed.
    pub fn losses_of_selected(&self) -> Losses {
        let received: u64 = self.sent.iter().map(|sent| u64::from(sent.receipts)).sum();
        let expected = self.published() * u64::from(self.expected_receipts);
        // A selected receiver skips numbers, so that its view of order means nothing here.
        Losses { lost: expected.saturating_sub(received), reordered: 0, ..self.repeats() }
    }

    fn repeats(&self) -> Losses {
        self.receivers.iter().fold(Losses::default(), |sum, receiver| Losses {
            duplicated: sum.duplicated + receiver.duplicates,
            reordered: sum.reordered + receiver.reordered,
            ..sum
        })
    }
}

/// The median of the numbers, or `None` of none; of an even count the mean of the middle two.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_tells_lost_from_late_from_repeated() {
        let mut tracker = SequenceTracker::default();
        for sequence in [0, 1, 4, 4, 2, 1] {
            tracker.note(sequence);
        }
        assert_eq!((tracker.duplicates, tracker.reordered), (2, 1));
        assert_eq!(tracker.lost(5), 1, "3 never came");
        assert_eq!(tracker.lost(8), 4, "nor did 5, 6 and 7");
    }

    #[test]
    fn a_message_is_complete_when_all_have_it_once() {
        let start = Instant::now();
        let mut ledger = Ledger::new(2, 2);
        let first = ledger.publish(start);
        assert!(!ledger.receive(0, first, start));
        assert!(!ledger.receive(0, first, start), "the same receiver again completes nothing");
        assert_eq!(ledger.under_way(), 1);
        assert!(ledger.receive(1, first, start + Duration::from_millis(2)));
        assert_eq!((ledger.under_way(), ledger.deliveries()), (0, 2));
        ledger.publish(start);
        assert_eq!(ledger.losses(), Losses { lost: 2, duplicated: 1, reordered: 0 });
        assert!(!ledger.receive(0, 99, start), "a number never sent is ignored");
    }

    #[test]
    fn measuring_forgets_the_warm_up_but_not_its_losses() {
        let start = Instant::now();
        let mut ledger = Ledger::new(1, 1);
        ledger.publish(start);
        ledger.abandon();
        assert_eq!(ledger.under_way(), 0);
        ledger.start_measuring();
        let second = ledger.publish(start);
        assert!(ledger.receive(0, second, start + Duration::from_micros(1_500)));
        assert_eq!((ledger.deliveries(), ledger.losses().lost), (1, 1));
        assert!((1_499..=1_502).contains(&ledger.latencies().p50_us));
    }

    #[test]
    fn selected_receivers_lose_only_what_was_for_them() {
        let start = Instant::now();
        let mut ledger = Ledger::new(3, 1);
        for receiver in [2, 0, 1] {
            let sequence = ledger.publish(start);
            assert!(ledger.receive(receiver, sequence, start));
        }
        ledger.publish(start);
        assert_eq!(ledger.losses_of_selected(), Losses { lost: 1, duplicated: 0, reordered: 0 });
    }

    #[test]
    fn percentiles_and_medians() {
        let mut recorder = LatencyRecorder::new();
        for micros in 1..=1000 {
            recorder.note(Duration::from_micros(micros));
        }
        let latencies = recorder.latencies();
        assert_eq!(
            (latencies.p50_us, latencies.p95_us, latencies.p99_us, latencies.max_us),
            (500, 950, 990, 1000)
        );
        recorder.note(Duration::from_secs(600));
        assert_eq!(recorder.count(), 1001, "too long is kept, as the longest that fits");
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
