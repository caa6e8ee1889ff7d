//! The producers' side: normalize → gate → append.

use event_log::{Entry, EventLog, Identity, LogError, Outcome, TopicKey};
use futures::future::BoxFuture;
use metrics::Metrics;
use shared_types::{Draft, EventId, Position, Problem, RawObject, Scope};
use std::{
    fmt::Write as _,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// What became of a routed event.
#[derive(Clone, Debug)]
pub struct RouteReport {
    /// Its id.
    pub id: EventId,
    /// Its place; `None` only for a repeat whose place is no longer known.
    pub position: Option<Position>,
    /// Whether it had been appended before.
    pub repeated: bool,
}

/// A draft with its scope and the way its repeats are recognized.
#[derive(Clone, Debug)]
pub struct Routed {
    /// Whose topic.
    pub scope: Scope,
    /// The event.
    pub draft: Draft,
    /// How a repeat is recognized.
    pub identity: Identity,
}

/// The one way into the log, shared by all producers of a process.
#[derive(Clone)]
pub struct EventRouter {
    log: Arc<dyn EventLog>,
    metrics: Arc<Metrics>,
}

impl EventRouter {
    /// A router in front of `log`.
    pub fn new(log: Arc<dyn EventLog>, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics }
    }

    /// The log behind it.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// Normalizes, checks and appends all of `batch` or nothing; answers in the batch's order.
    ///
    /// Order against other calls is kept if the future is polled once before the next call.
    ///
    /// # Errors
    /// [`LogError`] as from [`EventLog::append`].
    pub fn route(&self, batch: Vec<Routed>) -> BoxFuture<'static, Result<Vec<RouteReport>, LogError>> {
        let now = now_ms();
        let entries: Vec<Entry> = batch.into_iter().map(|routed| normalize(routed, now)).collect();
        for entry in &entries {
            self.metrics.received(entry.source.as_str(), entry.key.topic.as_str());
        }
        let ids: Vec<EventId> = entries.iter().map(|entry| entry.id.clone()).collect();
        let appended = self.log.append(entries);
        Box::pin(async move {
            let outcomes = appended.await?;
            Ok(ids.into_iter().zip(outcomes).map(|(id, outcome)| report(id, outcome)).collect())
        })
    }

    /// Routes one event.
    ///
    /// # Errors
    /// As [`EventRouter::route`], as a caller is told it.
    pub async fn route_one(&self, routed: Routed) -> Result<RouteReport, Problem> {
        let mut reports = self.route(vec![routed]).await?;
        reports.pop().ok_or_else(Problem::internal)
    }
}

fn report(id: EventId, outcome: Outcome) -> RouteReport {
    let repeated = matches!(outcome, Outcome::Repeated(_));
    RouteReport { id, position: outcome.position().cloned(), repeated }
}

fn normalize(routed: Routed, now: i64) -> Entry {
    let Routed { scope, draft, identity } = routed;
    let mut metadata = String::with_capacity(48 + draft.extra_metadata.len());
    let _ = write!(metadata, "{{\"timestamp\":{}", draft.timestamp_ms.unwrap_or(now));
    if !draft.extra_metadata.is_empty() {
        metadata.push(',');
        metadata.push_str(&draft.extra_metadata);
    }
    metadata.push('}');
    Entry {
        key: TopicKey { scope, topic: draft.topic },
        id: draft.id.unwrap_or_else(EventId::generate),
        source: draft.source,
        kind: draft.kind,
        payload: draft.payload,
        metadata: RawObject::from_trusted(metadata),
        identity,
    }
}

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
