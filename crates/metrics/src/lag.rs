//! Replication lag over several targets.
//!
//! Owns the last lag of each slot that this process reads; shows only the worst, so that the documented
//! gauges need no label and an alert on them means the slowest target.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use prometheus::{Gauge, IntGauge};

#[derive(Clone, Copy)]
struct Lag {
    seconds: f64,
    bytes: u64,
}

pub(crate) struct CdcLag {
    by_slot: Mutex<BTreeMap<String, Lag>>,
    worst_seconds: Gauge,
    worst_bytes: IntGauge,
}

impl CdcLag {
    pub(crate) fn new(worst_seconds: Gauge, worst_bytes: IntGauge) -> Self {
        Self { by_slot: Mutex::default(), worst_seconds, worst_bytes }
    }

    pub(crate) fn set(&self, slot: &str, seconds: f64, bytes: u64) {
        let mut by_slot = self.by_slot.lock();
        by_slot.insert(slot.to_owned(), Lag { seconds, bytes });
        self.show(&by_slot);
    }

    pub(crate) fn clear(&self, slot: &str) {
        let mut by_slot = self.by_slot.lock();
        by_slot.remove(slot);
        self.show(&by_slot);
    }

    fn show(&self, by_slot: &BTreeMap<String, Lag>) {
        self.worst_seconds.set(by_slot.values().map(|lag| lag.seconds).fold(0.0, f64::max));
        let bytes = by_slot.values().map(|lag| lag.bytes).max().unwrap_or(0);
        self.worst_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_target_shows_until_it_is_gone() {
        let lag = CdcLag::new(Gauge::new("s", "s").unwrap(), IntGauge::new("b", "b").unwrap());
        lag.set("one", 0.5, 10);
        lag.set("two", 3.0, 5);
        assert_eq!((lag.worst_seconds.get(), lag.worst_bytes.get()), (3.0, 10));
        lag.clear("two");
        assert_eq!((lag.worst_seconds.get(), lag.worst_bytes.get()), (0.5, 10));
        lag.clear("one");
        assert_eq!((lag.worst_seconds.get(), lag.worst_bytes.get()), (0.0, 0));
    }
}
