//! Watching the traffic of a scope, on all instances: asking for it, saying it, and the stream of who watches.

use super::Channels;
use crate::gateway::{
    registry::{Expected, happened},
    session::broadcast_members,
    traffic::{ASK, REPORT, Viewer},
};
use axum::body::Bytes;
use event_log::TopicKey;
use event_router::{
    Content, Hub, Letter, Listener, Outbox, OutboxLimits, Outgoing, Protocol, Saying, now_ms, own::TRAFFIC,
};
use serde_json::json;
use shared_types::{Problem, Scope, TopicName};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::task::TaskTracker;

/// What may wait for somebody who watches, before the stream ends.
const OUTBOX: OutboxLimits = OutboxLimits { bytes: 1 << 20, messages: 1_024 };
/// Bytes written in one piece.
const BATCH: usize = 64 << 10;
/// How often a stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often it is looked whether who watches still may.
const LOOK: Duration = Duration::from_secs(1);
/// After so long a stream ends, and its client comes again with what rights it has then.
const LONGEST: Duration = Duration::from_secs(300);

/// Where instances say what happens in a scope.
fn watch_key(scope: &Scope) -> TopicKey {
    TopicKey::new(scope, &TopicName::from_stored(TRAFFIC))
}

impl Channels {
    /// Says again and again what was noted, to those who watch.
    pub(super) async fn report_traffic(&self) {
        let mut tick = interval(REPORT);
        loop {
            tick.tick().await;
            self.say_traffic().await;
        }
    }

    /// Says what was noted since the last time.
    pub async fn say_traffic(&self) {
        for (scope, report) in self.registry.traffic.reports() {
            if let Err(error) = self.announce(watch_key(&scope), &Content::Traffic(report)).await {
                tracing::debug!(%error, "what happened could not be told to those who watch");
            }
        }
    }

    /// Asks the other instances, as long as somebody watches here.
    pub(super) async fn ask_for_traffic(&self) {
        let mut tick = interval(ASK);
        loop {
            tick.tick().await;
            for scope in self.registry.traffic.viewed() {
                if let Err(problem) = self.watch(&scope).await {
                    tracing::debug!(%problem, "not all instances say what happens");
                }
            }
        }
    }

    /// Asks all instances to say what happens in the scope for a while; answers how many do.
    async fn watch(&self, scope: &Scope) -> Result<usize, Problem> {
        self.registry.traffic.watch(scope);
        Ok(1 + self.ask_all(scope, &Letter::Watch).await?.len())
    }

    /// Notes what a server says in a channel.
    pub fn note_broadcast(&self, scope: &Scope, channel: &TopicName, saying: &Saying) {
        self.registry.traffic.note(scope, || {
            let mut members = json!({ "clientId": saying.from.client_id });
            broadcast_members(&mut members, channel, saying);
            happened("broadcast", members)
        });
    }

    /// Begins to watch the scope, as long as `may_still` says so.
    ///
    /// # Errors
    /// `UNAVAILABLE` while the server stops, or where instances cannot be asked.
    pub async fn view(
        &self,
        scope: &Scope,
        may_still: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Watching, Problem> {
        if self.registry.is_stopping() {
            return Err(Problem::unavailable("the server is stopping; reconnect elsewhere"));
        }
        let (key, outbox) = (watch_key(scope), Outbox::new(OUTBOX));
        let mut watching = Watching {
            _expected: self.registry.expect(outbox.clone()),
            _viewer: self.registry.traffic.view(scope),
            place: HubPlace { hub: self.hub.clone(), key, outbox, tasks: self.tasks.clone() },
            may_still: Box::new(may_still),
            look: interval(LOOK),
            beat: interval(HEARTBEAT),
            ends_at: Instant::now() + LONGEST,
            opening: None,
        };
        watching.place.listen().await?;
        let instances = self.watch(scope).await?;
        let opening = json!({ "instances": instances });
        watching.opening = Some(format!("event: watching\ndata: {opening}\n\n").into());
        Ok(watching)
    }
}

/// Somebody's stream of what happens.
pub struct Watching {
    _expected: Expected,
    _viewer: Viewer,
    place: HubPlace,
    may_still: Box<dyn Fn() -> bool + Send + Sync>,
    look: Interval,
    beat: Interval,
    ends_at: Instant,
    opening: Option<Bytes>,
}

impl Watching {
    /// The next piece of the stream; `None` at its end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                taken = self.place.outbox.take(BATCH, &mut batch) => {
                    taken.ok()?;
                    return Some(text_of(&batch));
                }
                now = self.look.tick() => {
                    if now >= self.ends_at || !(self.may_still)() {
                        return None;
                    }
                }
                _ = self.beat.tick() => {
                    let beat = json!({ "type": "heartbeat", "timestamp": now_ms() });
                    return Some(format!("data: {beat}\n\n").into());
                }
            }
        }
    }
}

fn text_of(batch: &[Outgoing]) -> Bytes {
    let mut text = Vec::new();
    for outgoing in batch {
        if let Outgoing::Message(message) = outgoing {
            text.extend_from_slice(&message.raw(Protocol::ServerSent));
        }
    }
    text.into()
}

/// The place at the hub where it is heard what happens; given back when dropped.
struct HubPlace {
    hub: Arc<Hub>,
    key: TopicKey,
    outbox: Arc<Outbox>,
    tasks: TaskTracker,
}

impl HubPlace {
    async fn listen(&self) -> Result<(), Problem> {
        let listener = Listener { socket_id: "".into(), outbox: self.outbox.clone(), hears_sayings: false };
        Ok(self.hub.join(self.key.clone(), listener).await?)
    }
}

impl Drop for HubPlace {
    fn drop(&mut self) {
        let (hub, key, connection) = (self.hub.clone(), self.key.clone(), self.outbox.connection());
        self.tasks.spawn(async move { hub.part(key, connection).await });
    }
}

fn interval(every: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
