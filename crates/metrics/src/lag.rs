//! Lag over several targets or outboxes.
//!
//! Owns the last lag of each that this process reads; shows only the worst, so that the documented gauges need
//! no label and an alert on them means the slowest one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use prometheus::{Gauge, IntGauge};

#[derive(Clone, Copy)]
struct Lag {
    seconds: f64,
    amount: u64,
}

pub(crate) struct WorstLag {
    by_name: Mutex<BTreeMap<String, Lag>>,
    worst_seconds: Gauge,
    worst_amount: IntGauge,
}

impl WorstLag {
    pub(crate) fn new(worst_seconds: Gauge, worst_amount: IntGauge) -> Self {
        Self { by_name: Mutex::default(), worst_seconds, worst_amount }
    }

    pub(crate) fn set(&self, name: &str, seconds: f64, amount: u64) {
        let mut by_name = self.by_name.lock();
        by_name.insert(name.to_owned(), Lag { seconds, amount });
        self.show(&by_name);
    }

    pub(crate) fn clear(&self, name: &str) {
        let mut by_name = self.by_name.lock();
        by_name.remove(name);
        self.show(&by_name);
    }

    fn show(&self, by_name: &BTreeMap<String, Lag>) {
        self.worst_seconds.set(by_name.values().map(|lag| lag.seconds).fold(0.0, f64::max));
        let amount = by_name.values().map(|lag| lag.amount).max().unwrap_or(0);
        self.worst_amount.set(i64::try_from(amount).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_target_shows_until_it_is_gone() {
        let lag = WorstLag::new(Gauge::new("s", "s").unwrap(), IntGauge::new("b", "b").unwrap());
        lag.set("one", 0.5, 10);
        lag.set("two", 3.0, 5);
        assert_eq!((lag.worst_seconds.get(), lag.worst_amount.get()), (3.0, 10));
        lag.clear("two");
        assert_eq!((lag.worst_seconds.get(), lag.worst_amount.get()), (0.5, 10));
        lag.clear("one");
        assert_eq!((lag.worst_seconds.get(), lag.worst_amount.get()), (0.0, 0));
    }
}
