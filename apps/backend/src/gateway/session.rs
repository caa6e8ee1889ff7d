//! The session of one connection: what its client asks for, checked against its rights and limits, and done.
//!
//! True of every transport: codecs turn their messages into [`Request`]s and write what comes into the outbox.

mod channels;
mod rate;

pub use channels::{broadcast_members, saying};

use super::{
    Gateway, SessionLimits,
    connection::Connection,
    encode,
    registry::{Entered, happened},
    request::{HistoryRequest, PublishRequest, Request, SubscribeRequest},
};
use auth::Identity;
use event_log::{HistoryQuery, Identity as Repeats, PageLimit, Reach, Start, TopicKey};
use event_router::{CloseReason, Control, ReplyTo, RouteReport, Routed, Subscribe, Subscription, project};
use presence::Place;
use rate::{Admission, Rate};
use serde_json::Value;
use shared_types::{Draft, ErrorKind, Problem, ReturnMode, Source, SubscriptionId, TopicName, rights::Verb};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::Instant;

/// Bytes of one answer to `history`.
const HISTORY_BYTES: usize = 1 << 20;

/// One connection's session.
pub struct Session {
    gateway: Arc<Gateway>,
    entered: Entered,
    /// Where the connection is.
    places: HashSet<Place>,
    rate: Rate,
    limits: SessionLimits,
}

impl Session {
    /// The session of a connection that was let in.
    pub fn new(gateway: Arc<Gateway>, entered: Entered) -> Self {
        let limits = gateway.limits_of(&entered.connection.identity().scope);
        let rate = Rate::full(limits.message_burst, Instant::now());
        Self { gateway, entered, places: HashSet::new(), rate, limits }
    }

    /// What the connection may do at most.
    pub fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// The connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.entered.connection
    }

    fn reply(&self, to: ReplyTo, control: Control) {
        self.connection().outbox.control(to, control);
    }

    /// Answers that a request failed.
    pub fn fail(&self, to: ReplyTo, problem: Problem) {
        self.gateway.metrics.rejected(problem.code);
        self.reply(to, Control::Failed(problem));
    }

    /// Counts a message against the rate limit; answers whether it may be looked at.
    pub fn admit(&mut self, to: &ReplyTo) -> bool {
        let limits = self.limits;
        let (per_second, burst) = (f64::from(limits.messages_per_second), f64::from(limits.message_burst));
        match self.rate.admit(per_second, burst, Instant::now()) {
            Admission::Admitted => true,
            Admission::Refused => {
                let message = format!("more than {per_second} messages a second");
                self.fail(to.clone(), Problem::limit(message));
                false
            }
            Admission::Closed => {
                self.connection().outbox.close(CloseReason::TooManyMessages);
                false
            }
        }
    }

    /// Does what the client asks; the answer goes into the outbox.
    ///
    /// Requests of one connection take effect in order, though answers to publishes come when they are durable.
    pub async fn handle(&mut self, request: Request, to: ReplyTo) {
        let done = match request {
            Request::Ping => {
                self.reply(to.clone(), Control::Pong);
                Ok(())
            }
            Request::Subscribe(request) => self.subscribe(request, to.clone()).await,
            Request::Unsubscribe(id) => self.unsubscribe(&id, to.clone()).await,
            Request::Publish(request) => self.publish(request, to.clone()).await,
            Request::History(request) => self.history(request, to.clone()).await,
            Request::Refresh(token) => self.refresh(&token, to.clone()).await,
            Request::Join(channel) => self.join_channel(channel, to.clone()).await,
            Request::LeaveChannel(channel) => self.leave_channel(channel, to.clone()).await,
            Request::Say(channel, request) => self.say(channel, request, to.clone()).await,
            Request::Direct(target, request) => self.direct(target, request, to.clone()).await,
            Request::Presence(verb, target, data) => self.presence(verb, target, data, to.clone()).await,
        };
        if let Err(problem) = done {
            self.fail(to, problem);
        }
    }

    async fn subscribe(&mut self, request: SubscribeRequest, to: ReplyTo) -> Result<(), Problem> {
        let identity = self.connection().identity();
        may_receive(&identity, Verb::Subscribe, &request.topic)?;
        self.gateway.policy.check(&identity.scope, &request.topic).await?;
        let subscription = self.subscription(&identity, &request)?;
        if request.id.is_none() {
            self.hold(&identity, subscription.clone());
        }
        self.gateway.hub.subscribe(Subscribe { subscription, since: request.since, reply: to }).await;
        Ok(())
    }

    /// Keeps a new subscription with the connection.
    pub fn hold(&self, identity: &Identity, subscription: Arc<Subscription>) {
        self.note("subscribe", identity, |members| subscribing(members, &subscription));
        self.connection().subscriptions.lock().insert(subscription.id.clone(), subscription);
    }

    /// The subscription that a request is about: a new one, or the one whose recovery goes on.
    fn subscription(
        &self,
        identity: &Identity,
        request: &SubscribeRequest,
    ) -> Result<Arc<Subscription>, Problem> {
        let mut held = self.connection().subscriptions.lock();
        if let Some(id) = &request.id {
            let known = held.get(id).filter(|known| {
                known.key.topic == request.topic
                    && known.filter == request.filter
                    && known.mode == request.mode
            });
            let rule = "must be a subscription of this connection with the same topic, filter and returnMode";
            return known.cloned().ok_or_else(|| Problem::field("subscriptionId", rule));
        }
        let most = self.limits.subscriptions;
        if held.len() >= most {
            // Those that failed were counted until it matters.
            held.retain(|_, subscription| !subscription.failed.load(Ordering::Relaxed));
        }
        if held.len() >= most {
            return Err(Problem::limit(format!("at most {most} subscriptions a connection")));
        }
        Ok(Arc::new(Subscription {
            id: SubscriptionId::generate(),
            key: TopicKey::new(&identity.scope, &request.topic),
            filter: request.filter.clone(),
            mode: request.mode,
            outbox: self.connection().outbox.clone(),
            socket_id: self.connection().socket_id.clone(),
            failed: AtomicBool::new(false),
        }))
    }

    /// Tells those who watch the traffic what the connection does; `more` says it more closely.
    fn note(&self, kind: &str, identity: &Identity, more: impl FnOnce(&mut Value)) {
        self.gateway.registry.traffic.note(&identity.scope, || {
            let mut members = self.connection().who();
            more(&mut members);
            happened(kind, members)
        });
    }

    async fn unsubscribe(&mut self, id: &SubscriptionId, to: ReplyTo) -> Result<(), Problem> {
        let removed = self.connection().subscriptions.lock().remove(id);
        let Some(subscription) = removed else {
            return Err(Problem::not_found("subscription", id.as_str()));
        };
        self.note("unsubscribe", &self.connection().identity(), |members| {
            subscribing(members, &subscription)
        });
        self.gateway.hub.unsubscribe(subscription, to).await;
        Ok(())
    }

    async fn publish(&mut self, request: PublishRequest, to: ReplyTo) -> Result<(), Problem> {
        let identity = self.connection().identity();
        let routed = self.gateway.publication(&identity, request).await?;
        let mut routing = self.gateway.router.route(vec![routed]);
        // Polled once here, the event has its place in the queue before the client's next message is read.
        let first = futures::poll!(&mut routing);
        let (outbox, metrics) = (self.connection().outbox.clone(), self.gateway.metrics.clone());
        self.gateway.tasks.spawn(async move {
            let done = match first {
                std::task::Poll::Ready(done) => done,
                std::task::Poll::Pending => routing.await,
            };
            let control = match done.map(|mut reports| reports.pop()) {
                Ok(Some(report)) => Control::Done(report_members(&report)),
                Ok(None) => Control::Failed(Problem::internal()),
                Err(error) => {
                    let problem = Problem::from(error);
                    metrics.rejected(problem.code);
                    Control::Failed(problem)
                }
            };
            outbox.control(to, control);
        });
        Ok(())
    }

    async fn history(&mut self, request: HistoryRequest, to: ReplyTo) -> Result<(), Problem> {
        let identity = self.connection().identity();
        may_receive(&identity, Verb::History, &request.topic)?;
        let key = TopicKey::new(&identity.scope, &request.topic);
        let start = request.since.map_or(Start::Latest, Start::After);
        let limit = PageLimit { events: request.limit, bytes: HISTORY_BYTES };
        let page =
            self.gateway.router.log().history(&key, HistoryQuery { start, until: None, limit }).await?;
        let position = page.events.last().map_or(&page.head, |event| &event.position);
        let mut out = String::from("\"events\":[");
        for (number, event) in page.events.iter().enumerate() {
            out.push_str(if number > 0 { "," } else { "" });
            event.write_json(&mut out, Some(&project(event, ReturnMode::Full)));
        }
        out.push_str("],");
        out.push_str(&encode::position_members(position));
        if page.reach != Reach::Connected {
            out.push_str(",\"recovered\":false");
        }
        self.reply(to, Control::Done(out));
        Ok(())
    }

    async fn refresh(&mut self, token: &str, to: ReplyTo) -> Result<(), Problem> {
        let old = self.connection().identity();
        let new = Arc::new(self.gateway.authenticator.verify_token(token)?);
        if new.scope != old.scope || new.sub != old.sub {
            return Err(Problem::forbidden(
                "the new token is for another application, environment or subject",
            ));
        }
        let expires_at = new.expires_at_ms;
        self.connection().replace_identity(new.clone());
        self.gateway.close_if_revoked(self.connection());
        self.end_uncovered(&new).await;
        self.reply(to, Control::Done(format!("\"expiresAt\":{expires_at}")));
        Ok(())
    }

    /// Ends the subscriptions that a new token no longer covers, each with an error that names it.
    async fn end_uncovered(&mut self, identity: &Identity) {
        let is_uncovered = |subscription: &Subscription| {
            may_receive(identity, Verb::Subscribe, &subscription.key.topic).is_err()
        };
        let uncovered: Vec<Arc<Subscription>> = {
            let mut held = self.connection().subscriptions.lock();
            let uncovered = held.extract_if(|_, subscription| is_uncovered(subscription));
            uncovered.map(|(_, subscription)| subscription).collect()
        };
        for subscription in uncovered {
            let (id, topic) = (subscription.id.clone(), subscription.key.topic.clone());
            self.gateway.hub.leave(vec![subscription]).await;
            let message = format!("subscription {id} to {topic} ended: the new token does not cover it");
            let problem = Problem::forbidden(message);
            self.gateway.metrics.rejected(problem.code);
            self.reply(ReplyTo::Nothing, Control::Ended { id, topic, problem });
        }
        self.leave_uncovered(identity).await;
    }

    /// Ends everything that the connection had.
    pub async fn end(mut self) {
        self.leave_all().await;
        let Self { gateway, entered, .. } = self;
        let subscriptions = std::mem::take(&mut *entered.connection.subscriptions.lock());
        drop(entered);
        gateway.hub.leave(subscriptions.into_values().collect()).await;
    }
}

/// Which subscription it is about.
fn subscribing(members: &mut Value, subscription: &Subscription) {
    members["subscriptionId"] = subscription.id.as_str().into();
    members["topic"] = subscription.key.topic.as_str().into();
}

/// The members of the answer to a publish.
pub fn report_members(report: &RouteReport) -> String {
    let id = Value::from(report.id.as_str());
    match &report.position {
        Some(position) => format!("\"id\":{id},{}", encode::position_members(position)),
        None => format!("\"id\":{id}"),
    }
}

/// Whether events of `topic` may be received or their history read.
pub fn may_receive(identity: &Identity, verb: Verb, topic: &TopicName) -> Result<(), Problem> {
    let name = topic.as_str();
    let allowed = identity.rights.allows(verb, name)
        && (!name.starts_with("sync.") || identity.rights.allows(Verb::DocumentsRead, name));
    if allowed { Ok(()) } else { Err(Problem::forbidden(format!("no right to {} {name}", verb.as_str()))) }
}

/// The event that a publish asks for, if it may.
pub fn publication(identity: &Identity, request: PublishRequest) -> Result<Routed, Problem> {
    let name = request.topic.as_str();
    topic_registry::check_publishable(&request.topic, &request.kind)?;
    if !identity.rights.allows(Verb::Publish, name) {
        return Err(Problem::forbidden(format!("no right to publish {name}")));
    }
    let repeats = match &request.id {
        Some(_) => Repeats::Keyed { producer: identity.name().into() },
        None => Repeats::Unique,
    };
    let draft = Draft {
        topic: request.topic,
        source: Source::Socket,
        kind: request.kind.into(),
        payload: request.payload,
        id: request.id,
        timestamp_ms: None,
        extra_metadata: String::new(),
    };
    Ok(Routed { scope: identity.scope.clone(), draft, identity: repeats })
}

/// The handshake's refusal of somebody whose token may be good, but for elsewhere.
pub fn refused_origin(origin: &str) -> Problem {
    Problem::new(ErrorKind::Forbidden, "ORIGIN_NOT_ALLOWED", format!("origin {origin} is not allowed here"))
}
