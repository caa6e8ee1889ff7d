//! For how long an outbox cannot be read, as the gauge of lag says it: rows may wait there that nobody counts.

use metrics::Metrics;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long an outbox must have been read for its next failure to count as a first one.
const HEALTHY: Duration = Duration::from_secs(3);

/// Since when one outbox cannot be read; says nothing any more once it is dropped.
pub(crate) struct Unread {
    metrics: Arc<Metrics>,
    name: String,
    since: Option<Instant>,
}

impl Unread {
    /// Of the outbox `name`, of which nothing is known yet.
    pub fn new(metrics: Arc<Metrics>, name: &str) -> Self {
        Self { metrics, name: format!("unread:{name}"), since: None }
    }

    /// It could not be read, after it had been read for as long as `read`.
    pub fn failed(&mut self, read: Duration) {
        if read > HEALTHY {
            self.since = None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.metrics.set_outbox_lag(&self.name, since.elapsed().as_secs_f64(), 0);
    }

    /// Whatever waits there is counted, or is not this one's.
    pub fn clear(&self) {
        self.metrics.clear_outbox_lag(&self.name);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.clear();
    }
}
