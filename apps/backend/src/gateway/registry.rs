//! The connections of this process: counted, watched for expiry and revocation, and told when the server stops.
//!
//! Says to the lifecycle and to those who watch the traffic when one begins and ends.

use super::{
    lifecycle::{ConnectionRecord, Lifecycle, reason_of},
    traffic::Traffic,
};
use crate::rates::Rates;
use auth::{Authenticator, Identity};
use dashmap::DashMap;
use event_router::{CloseReason, Control, Outbox, ReplyTo, Subscription, Wanted, now_ms};
use metrics::{Metrics, Transport};
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared_config::Networks;
use shared_types::{ErrorKind, Problem, Scope, SubscriptionId, TopicName};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long an expired token may be replaced before the connection ends.
const GRACE_MS: i64 = 30_000;
/// How often expiry is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Over how long clients are told to reconnect when the server stops.
const SPREAD: Duration = Duration::from_secs(5);

/// Somebody who was let in: over what, from where, and as whom.
pub struct Admitted {
    /// Over what.
    pub transport: Transport,
    /// From where.
    pub address: Option<IpAddr>,
    /// What the client says it is.
    pub user_agent: Option<Box<str>>,
    /// Where what is written to it waits.
    pub outbox: Arc<Outbox>,
    /// As whom.
    pub identity: Arc<Identity>,
}

/// What one client address may do.
#[derive(Clone, Debug, Default)]
pub struct AddressLimits {
    /// How many connections it may have.
    pub connections: Option<usize>,
    /// How many it may begin in a minute.
    pub handshakes_per_minute: Option<u32>,
    /// Addresses to which none of this applies.
    pub exempt: Networks,
}

/// One connection that was let in.
pub struct Connection {
    /// Its id, by which others reach it.
    pub socket_id: Arc<str>,
    /// Where what is written to it waits.
    pub outbox: Arc<Outbox>,
    transport: Transport,
    address: Option<IpAddr>,
    user_agent: Option<Box<str>>,
    since_ms: i64,
    /// When it was last written down for those who find this instance dead.
    noted_ms: AtomicI64,
    identity: Mutex<Arc<Identity>>,
    warned: AtomicBool,
    /// Its subscriptions.
    pub subscriptions: Mutex<HashMap<SubscriptionId, Arc<Subscription>>>,
    /// The channels that it has joined.
    pub channels: Mutex<Vec<TopicName>>,
}

impl Connection {
    /// As whom others see it: the token's subject, or else the socket's id.
    pub fn client_id(&self) -> String {
        self.identity.lock().sub.as_deref().unwrap_or(&self.socket_id).to_owned()
    }

    /// Who it is, for those who watch the traffic.
    pub fn who(&self) -> Value {
        json!({ "socketId": &*self.socket_id, "clientId": self.client_id() })
    }

    fn record(&self) -> ConnectionRecord {
        let scope = self.identity.lock().scope.clone();
        ConnectionRecord {
            application: scope.application().clone(),
            environment: scope.environment(),
            socket_id: self.socket_id.to_string(),
            client_id: self.client_id(),
            transport: self.transport.label().to_owned(),
            address: self.address.map(|address| address.to_string()),
            user_agent: self.user_agent.as_deref().map(str::to_owned),
            connected_at: self.since_ms,
            noted_at: self.noted_ms.load(Ordering::Relaxed),
        }
    }

    fn is_wanted(&self, wanted: &Wanted) -> bool {
        let is = |given: &Option<String>, own: &dyn Fn(&str) -> bool| given.as_deref().is_none_or(own);
        is(&wanted.transport, &|transport| transport == self.transport.label())
            && is(&wanted.client_id, &|client| client == self.client_id())
            && is(&wanted.address, &|given| self.address.is_some_and(|own| own.to_string() == given))
            && is(&wanted.channel, &|channel| self.channels.lock().iter().any(|own| own.as_str() == channel))
            && is(&wanted.topic, &|topic| {
                self.subscriptions.lock().values().any(|own| own.key.topic.as_str() == topic)
            })
    }

    fn describe(&self, now: i64) -> Value {
        let subscriptions = self.subscriptions.lock();
        let live = subscriptions.values().filter(|one| !one.failed.load(Ordering::Relaxed)).count();
        json!({
            "socketId": &*self.socket_id,
            "clientId": self.client_id(),
            "transport": self.transport.label(),
            "address": self.address,
            "userAgent": self.user_agent,
            "channels": self.channels.lock().iter().map(TopicName::as_str).collect::<Vec<_>>(),
            "subscriptions": live,
            "connectedAt": self.since_ms,
            "uptimeMs": (now - self.since_ms).max(0),
        })
    }

    /// As in the table, and each subscription.
    fn describe_whole(&self) -> Value {
        let mut whole = self.describe(now_ms());
        let subscriptions = self.subscriptions.lock();
        let mut each: Vec<&Arc<Subscription>> =
            subscriptions.values().filter(|one| !one.failed.load(Ordering::Relaxed)).collect();
        each.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        let each = each.into_iter().map(|one| {
            json!({
                "subscriptionId": one.id,
                "topic": one.key.topic,
                "filter": one.filter.to_json(),
                "returnMode": one.mode.as_str(),
            })
        });
        whole["subscriptionList"] = each.collect();
        whole
    }

    /// As whom it acts now.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.lock().clone()
    }

    /// Lets it act under a new token from now on.
    pub fn replace_identity(&self, identity: Arc<Identity>) {
        *self.identity.lock() = identity;
        self.warned.store(false, Ordering::Relaxed);
    }

    /// Says once that the token has expired, and closes the connection when the time to replace it is over.
    fn check_expiry(&self, now: i64) {
        let expired_for = now - self.identity.lock().expires_at_ms;
        if expired_for >= GRACE_MS {
            self.outbox.close(CloseReason::TokenExpired);
        } else if expired_for >= 0 && !self.warned.swap(true, Ordering::Relaxed) {
            let message = "the token has expired; send auth:refresh within 30 s";
            let problem = Problem::new(ErrorKind::Unauthenticated, "TOKEN_EXPIRED", message);
            self.outbox.control(ReplyTo::Nothing, Control::Failed(problem));
        }
    }
}

/// All connections of this process.
pub struct Registry {
    connections: DashMap<Arc<str>, Arc<Connection>>,
    /// Connections that nobody has been let in on yet.
    expected: DashMap<u64, Arc<Outbox>>,
    addresses: DashMap<IpAddr, usize>,
    limits: AddressLimits,
    rates: Arc<Rates>,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
    /// Where beginnings and ends are said.
    pub lifecycle: Arc<Lifecycle>,
    /// What those see who watch.
    pub traffic: Arc<Traffic>,
}

/// A place among an address's connections; given back when dropped.
pub struct Place {
    registry: Arc<Registry>,
    address: Option<IpAddr>,
}

/// The entry of a connection that waits for its client to ask in; removed when dropped.
pub struct Expected {
    registry: Arc<Registry>,
    connection: u64,
}

/// A connection's entry; removed when dropped.
pub struct Entered {
    registry: Arc<Registry>,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Registry {
    /// An empty one, which lets as much of one address in as `limits` say.
    pub fn new(
        limits: AddressLimits,
        rates: Arc<Rates>,
        metrics: Arc<Metrics>,
        lifecycle: Arc<Lifecycle>,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections: DashMap::new(),
            expected: DashMap::new(),
            addresses: DashMap::new(),
            limits,
            rates,
            stopping: AtomicBool::new(false),
            metrics,
            lifecycle,
            traffic: Arc::default(),
        })
    }

    /// Whether new connections are refused because the server stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Takes a place for a connection from `address`.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` where the address has too many; `UNAVAILABLE` while the server stops.
    pub fn place(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Problem> {
        if self.is_stopping() {
            return Err(Problem::unavailable("the server is stopping; reconnect elsewhere"));
        }
        let counted = address.filter(|address| !self.limits.exempt.contains(*address));
        if let Some(address) = counted {
            self.admit_handshake(address)?;
            let mut held = self.addresses.entry(address).or_insert(0);
            if self.limits.connections.is_some_and(|most| *held >= most) {
                return Err(Problem::limit("too many connections from this address"));
            }
            *held += 1;
        }
        Ok(Place { registry: self.clone(), address: counted })
    }

    fn admit_handshake(&self, address: IpAddr) -> Result<(), Problem> {
        let Some(most) = self.limits.handshakes_per_minute else { return Ok(()) };
        self.rates.admit(&Rates::address(address), most).map_err(|over| {
            let seconds = over.retry_after_seconds;
            Problem::limit(format!(
                "more than {most} connections begun in a minute; try again in {seconds} s"
            ))
        })
    }

    /// Remembers a connection that nobody has been let in on yet, so that it is told when the server stops.
    pub fn expect(self: &Arc<Self>, outbox: Arc<Outbox>) -> Expected {
        let connection = outbox.connection();
        self.expected.insert(connection, outbox.clone());
        if self.is_stopping() {
            outbox.close(CloseReason::GoingAway);
        }
        Expected { registry: self.clone(), connection }
    }

    /// Enters a connection that was let in.
    pub fn enter(self: &Arc<Self>, socket_id: String, admitted: Admitted) -> Entered {
        let Admitted { transport, address, user_agent, outbox, identity } = admitted;
        let since_ms = now_ms();
        let connection = Arc::new(Connection {
            socket_id: socket_id.into(),
            outbox,
            transport,
            address,
            user_agent,
            since_ms,
            noted_ms: AtomicI64::new(since_ms),
            identity: Mutex::new(identity),
            warned: AtomicBool::new(false),
            subscriptions: Mutex::default(),
            channels: Mutex::default(),
        });
        self.connections.insert(connection.socket_id.clone(), connection.clone());
        self.metrics.connection_opened(transport);
        let record = connection.record();
        self.lifecycle.connected(&record);
        self.traffic.note(&record.scope(), || happened("socket.connect", record.members()));
        if self.is_stopping() {
            connection.outbox.close(CloseReason::GoingAway);
        }
        Entered { registry: self.clone(), connection }
    }

    /// Writes all connections down anew, because others have taken this instance for dead, and said that they ended.
    pub fn note_again(&self) {
        for connection in &self.connections {
            connection.noted_ms.store(now_ms(), Ordering::Relaxed);
            self.lifecycle.connected(&connection.record());
        }
    }

    /// Tells those who watch the traffic that a connection has ended, here or on an instance that died.
    pub fn note_end(&self, record: &ConnectionRecord, reason: &str) {
        self.traffic.note(&record.scope(), || {
            let mut members = record.members();
            members["reason"] = reason.into();
            happened("socket.disconnect", members)
        });
    }

    /// A connection of the scope, by its socket's id.
    pub fn find(&self, scope: &Scope, socket_id: &str) -> Option<Arc<Connection>> {
        let connection = self.connections.get(socket_id)?.clone();
        let is_theirs = connection.identity.lock().scope == *scope;
        is_theirs.then_some(connection)
    }

    /// How many connections of the scope are wanted, and what is known of the first of them, by socket.
    pub fn table(&self, scope: &Scope, wanted: &Wanted) -> (u64, Vec<Value>) {
        let theirs = self.connections.iter().filter(|one| one.identity.lock().scope == *scope);
        let mut found: Vec<Arc<Connection>> =
            theirs.filter(|one| one.is_wanted(wanted)).map(|one| one.clone()).collect();
        let count = found.len() as u64;
        found.retain(|one| wanted.after.as_deref().is_none_or(|after| &*one.socket_id > after));
        found.sort_by(|a, b| a.socket_id.cmp(&b.socket_id));
        let now = now_ms();
        (count, found.iter().take(wanted.limit).map(|connection| connection.describe(now)).collect())
    }

    /// All that is known of a connection of the scope.
    pub fn describe(&self, scope: &Scope, socket_id: &str) -> Option<Value> {
        self.find(scope, socket_id).map(|connection| connection.describe_whole())
    }

    /// Watches expiry and revocation until `stop`.
    pub async fn watch(self: Arc<Self>, authenticator: Arc<Authenticator>, stop: CancellationToken) {
        let mut changes = authenticator.changes();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {
                    let now = now_ms();
                    self.connections.iter().for_each(|connection| connection.check_expiry(now));
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.close_revoked(&authenticator);
                }
            }
        }
    }

    fn close_revoked(&self, authenticator: &Authenticator) {
        for connection in &self.connections {
            if authenticator.still_holds(&connection.identity()).is_err() {
                connection.outbox.close(CloseReason::Revoked);
            }
        }
    }

    /// Lets nobody in any more and tells all clients to reconnect, spread over a few seconds; answers when they are
    /// gone, or at `until`.
    pub async fn drain(&self, until: tokio::time::Instant) {
        self.stopping.store(true, Ordering::Relaxed);
        self.expected.iter().for_each(|outbox| outbox.close(CloseReason::GoingAway));
        let outboxes: Vec<Arc<Outbox>> = self.connections.iter().map(|c| c.outbox.clone()).collect();
        // A few connections need no spreading, so that a laptop stops at once.
        let begun = tokio::time::Instant::now();
        let spread = SPREAD.min(until.saturating_duration_since(begun) / 2);
        let pause = if outboxes.len() > 100 { spread / outboxes.len() as u32 } else { Duration::ZERO };
        for (number, outbox) in outboxes.iter().enumerate() {
            outbox.close(CloseReason::GoingAway);
            tokio::time::sleep_until(begun + pause * number as u32).await;
        }
        while !(self.connections.is_empty() && self.expected.is_empty())
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        if let Some(mut held) = self.registry.addresses.get_mut(&address) {
            *held -= 1;
        }
        self.registry.addresses.remove_if(&address, |_, held| *held == 0);
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.registry.expected.remove(&self.connection);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let (connection, registry) = (&self.connection, &self.registry);
        connection.outbox.close(CloseReason::Gone);
        let reason = connection.outbox.closed().unwrap_or(CloseReason::Gone);
        if reason == CloseReason::SlowConsumer {
            registry.metrics.slow_consumers.inc();
        }
        registry.connections.remove(&connection.socket_id);
        registry.metrics.connection_closed(connection.transport);
        let (record, reason) = (connection.record(), reason_of(&reason));
        registry.lifecycle.disconnected(&record, reason);
        registry.note_end(&record, reason);
    }
}

/// What happened and when, with `members` that say to whom.
pub fn happened(kind: &str, mut members: Value) -> Value {
    members["type"] = kind.into();
    members["timestamp"] = now_ms().into();
    members
}
