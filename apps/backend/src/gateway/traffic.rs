//! What happens on connections, as those see it who watch: sampled, kept nowhere, and free while nobody watches.
//!
//! Owns what has been noted and not said yet, and who watches on this instance. Whoever watches asks all instances, again
//! and again, to say what happens in its scope; each says it under one key of the scope, a few times a second.

use event_router::TrafficReport;
use parking_lot::Mutex;
use serde_json::Value;
use shared_types::Scope;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How often what was noted is said.
pub const REPORT: Duration = Duration::from_millis(200);
/// How often the instances are asked anew.
pub const ASK: Duration = Duration::from_secs(3);
/// How long one that was asked goes on.
const WATCHED: Duration = Duration::from_secs(10);
/// What one report lists at most; what is beyond is counted.
const LISTED: usize = 100;

struct Watched {
    until: Instant,
    report: TrafficReport,
}

/// What happens on this instance.
#[derive(Default)]
pub struct Traffic {
    /// Whether anybody watches any scope: all that is looked at otherwise.
    is_watched: AtomicBool,
    watched: Mutex<HashMap<Scope, Watched>>,
    viewers: Mutex<HashMap<Scope, usize>>,
}

/// Somebody who watches, until dropped.
pub struct Viewer {
    traffic: Arc<Traffic>,
    scope: Scope,
}

impl Traffic {
    /// Notes what happened, if somebody watches.
    pub fn note(&self, scope: &Scope, entry: impl FnOnce() -> Value) {
        self.note_at(Instant::now(), scope, entry);
    }

    fn note_at(&self, now: Instant, scope: &Scope, entry: impl FnOnce() -> Value) {
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let mut watched = self.watched.lock();
        let Some(Watched { until, report }) = watched.get_mut(scope) else { return };
        if *until < now {
            return;
        }
        if report.entries.len() < LISTED {
            report.entries.push(entry());
        } else {
            report.omitted += 1;
        }
    }

    /// Somebody watches the scope, here or on another instance.
    pub fn watch(&self, scope: &Scope) {
        let until = Instant::now() + WATCHED;
        let mut watched = self.watched.lock();
        let report = TrafficReport::default();
        watched.entry(scope.clone()).or_insert_with(|| Watched { until, report }).until = until;
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// What has been noted since the last time, and is to be said.
    pub fn reports(&self) -> Vec<(Scope, TrafficReport)> {
        self.reports_at(Instant::now())
    }

    fn reports_at(&self, now: Instant) -> Vec<(Scope, TrafficReport)> {
        if !self.is_watched.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut watched = self.watched.lock();
        watched.retain(|_, watched| watched.until >= now);
        self.is_watched.store(!watched.is_empty(), Ordering::Relaxed);
        let noted = watched.iter_mut().filter(|(_, watched)| !watched.report.entries.is_empty());
        noted.map(|(scope, watched)| (scope.clone(), std::mem::take(&mut watched.report))).collect()
    }

    /// Somebody begins to watch here.
    pub fn view(self: &Arc<Self>, scope: &Scope) -> Viewer {
        *self.viewers.lock().entry(scope.clone()).or_insert(0) += 1;
        Viewer { traffic: self.clone(), scope: scope.clone() }
    }

    /// The scopes that are watched here.
    pub fn viewed(&self) -> Vec<Scope> {
        self.viewers.lock().keys().cloned().collect()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut viewers = self.traffic.viewers.lock();
        if let Some(count) = viewers.get_mut(&self.scope) {
            *count -= 1;
            if *count == 0 {
                viewers.remove(&self.scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_types::{AppId, Environment};

    fn scope(application: &str) -> Scope {
        Scope::new(AppId::from_stored(application), Environment::Development)
    }

    #[test]
    fn what_is_watched_is_noted_and_the_rest_counted() {
        let (traffic, ours, theirs) = (Traffic::default(), scope("app_a"), scope("app_b"));
        traffic.note(&ours, || panic!("nobody watches"));
        traffic.watch(&ours);
        traffic.note(&theirs, || panic!("nobody watches that scope"));
        for n in 0..LISTED + 7 {
            traffic.note(&ours, || json!({ "n": n }));
        }
        let reports = traffic.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].1.entries.len(), reports[0].1.omitted), (LISTED, 7));
        assert!(traffic.reports().is_empty(), "it is said once");
        let later = Instant::now() + WATCHED + REPORT;
        traffic.note_at(later, &ours, || panic!("nobody watches any more"));
        assert!(traffic.reports_at(later).is_empty());
        traffic.note(&ours, || panic!("it is not even looked at"));
    }

    #[test]
    fn a_scope_is_viewed_as_long_as_somebody_views_it() {
        let traffic = Arc::new(Traffic::default());
        let (one, other) = (traffic.view(&scope("app_a")), traffic.view(&scope("app_a")));
        drop(one);
        assert_eq!(traffic.viewed(), [scope("app_a")]);
        drop(other);
        assert!(traffic.viewed().is_empty());
    }
}
