//! Targets that cannot even be asked who they are: for how long, as the gauge of lag says it.
//!
//! A target that is led has its lag from its reader. One that nobody has reached since the processes started has
//! none, and yet what is committed there waits. Of the processes that cannot reach it, the one that says so in the
//! status says it here too; where another reads it, nobody does.

use crate::farewell::scope_text;
use metrics::Metrics;
use shared_types::Scope;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long what was said holds; it is said again every five seconds, by one of the processes.
const HOLDS: Duration = Duration::from_secs(10);

struct Blind {
    since: Instant,
    said: Instant,
}

/// The scopes whose target this process said it cannot ask.
pub(crate) struct Blinds {
    metrics: Arc<Metrics>,
    scopes: HashMap<Scope, Blind>,
}

impl Blinds {
    /// None.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, scopes: HashMap::new() }
    }

    /// This process has said that the target of `scope` cannot be asked.
    pub fn said(&mut self, scope: &Scope) {
        let now = Instant::now();
        self.scopes.entry(scope.clone()).or_insert(Blind { since: now, said: now }).said = now;
    }

    /// Shows for how long, and forgets those that are not `still` so.
    pub fn show(&mut self, still: impl Fn(&Scope) -> bool) {
        self.scopes.retain(|scope, blind| {
            let is_blind = still(scope);
            let name = scope_text(scope);
            if is_blind && blind.said.elapsed() < HOLDS {
                self.metrics.set_cdc_lag(&name, blind.since.elapsed().as_secs_f64(), 0);
            } else {
                self.metrics.clear_cdc_lag(&name);
            }
            is_blind
        });
    }
}
