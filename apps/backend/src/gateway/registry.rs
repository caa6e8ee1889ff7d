//! The connections of this process: counted, watched for expiry and revocation, and told when the server stops.

use auth::{Authenticator, Identity};
use dashmap::DashMap;
use event_router::{CloseReason, Control, Outbox, ReplyTo, now_ms};
use metrics::{Metrics, Transport};
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared_types::{ErrorKind, Problem, Scope, TopicName};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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

/// One connection that was let in.
pub struct Connection {
    /// Its id, by which others reach it.
    pub socket_id: Arc<str>,
    /// Where what is written to it waits.
    pub outbox: Arc<Outbox>,
    transport: Transport,
    address: Option<IpAddr>,
    since_ms: i64,
    identity: Mutex<Arc<Identity>>,
    warned: AtomicBool,
    /// How many subscriptions it holds.
    pub subscriptions: AtomicUsize,
    /// The channels that it has joined.
    pub channels: Mutex<Vec<TopicName>>,
}

impl Connection {
    /// As whom others see it: the token's subject, or else the socket's id.
    pub fn client_id(&self) -> String {
        self.identity.lock().sub.as_deref().unwrap_or(&self.socket_id).to_owned()
    }

    fn describe(&self, now: i64) -> Value {
        json!({
            "socketId": &*self.socket_id,
            "clientId": self.client_id(),
            "transport": self.transport.label(),
            "address": self.address,
            "channels": self.channels.lock().iter().map(TopicName::as_str).collect::<Vec<_>>(),
            "subscriptions": self.subscriptions.load(Ordering::Relaxed),
            "connectedAt": self.since_ms,
            "uptimeMs": (now - self.since_ms).max(0),
        })
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
    per_address: Option<usize>,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
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
    /// An empty one, which lets so many connections of one address in.
    pub fn new(per_address: Option<usize>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            connections: DashMap::new(),
            expected: DashMap::new(),
            addresses: DashMap::new(),
            per_address,
            stopping: AtomicBool::new(false),
            metrics,
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
        if let Some(address) = address {
            let mut held = self.addresses.entry(address).or_insert(0);
            if self.per_address.is_some_and(|most| *held >= most) {
                return Err(Problem::limit("too many connections from this address"));
            }
            *held += 1;
        }
        Ok(Place { registry: self.clone(), address })
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
    pub fn enter(
        self: &Arc<Self>,
        transport: Transport,
        address: Option<IpAddr>,
        socket_id: String,
        outbox: Arc<Outbox>,
        identity: Arc<Identity>,
    ) -> Entered {
        let connection = Arc::new(Connection {
            socket_id: socket_id.into(),
            outbox,
            transport,
            address,
            since_ms: now_ms(),
            identity: Mutex::new(identity),
            warned: AtomicBool::new(false),
            subscriptions: AtomicUsize::new(0),
            channels: Mutex::default(),
        });
        self.connections.insert(connection.socket_id.clone(), connection.clone());
        self.metrics.connection_opened(transport);
        if self.is_stopping() {
            connection.outbox.close(CloseReason::GoingAway);
        }
        Entered { registry: self.clone(), connection }
    }

    /// A connection of the scope, by its socket's id.
    pub fn find(&self, scope: &Scope, socket_id: &str) -> Option<Arc<Connection>> {
        let connection = self.connections.get(socket_id)?.clone();
        let is_theirs = connection.identity.lock().scope == *scope;
        is_theirs.then_some(connection)
    }

    /// How many connections of the scope there are, and what is known of at most `limit` of them.
    pub fn table(&self, scope: &Scope, limit: usize) -> (u64, Vec<Value>) {
        let now = now_ms();
        let (mut count, mut listed) = (0, Vec::new());
        for connection in self.connections.iter().filter(|c| c.identity.lock().scope == *scope) {
            count += 1;
            if listed.len() < limit {
                listed.push(connection.describe(now));
            }
        }
        (count, listed)
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
    /// gone or `limit` is over.
    pub async fn drain(&self, limit: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        self.expected.iter().for_each(|outbox| outbox.close(CloseReason::GoingAway));
        let outboxes: Vec<Arc<Outbox>> = self.connections.iter().map(|c| c.outbox.clone()).collect();
        // A few connections need no spreading, so that a laptop stops at once.
        let pause = if outboxes.len() > 100 { SPREAD / outboxes.len() as u32 } else { Duration::ZERO };
        let begun = tokio::time::Instant::now();
        for (number, outbox) in outboxes.iter().enumerate() {
            outbox.close(CloseReason::GoingAway);
            tokio::time::sleep_until(begun + pause * number as u32).await;
        }
        while !(self.connections.is_empty() && self.expected.is_empty()) && begun.elapsed() < limit {
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
        let outbox = &self.connection.outbox;
        if outbox.closed() == Some(CloseReason::SlowConsumer) {
            self.registry.metrics.slow_consumers.inc();
        }
        outbox.close(CloseReason::Gone);
        self.registry.connections.remove(&self.connection.socket_id);
        self.registry.metrics.connection_closed(self.connection.transport);
    }
}
