//! The connections of this process: counted, watched for expiry and revocation, and told when the server stops.
//!
//! Says to the lifecycle and to those who watch the traffic when one begins and ends.

use super::{
    connection::{Admitted, Connection},
    lifecycle::{ConnectionRecord, Lifecycle, reason_of},
    traffic::Traffic,
};
use crate::rates::Rates;
use auth::Authenticator;
use dashmap::DashMap;
use event_router::{CloseReason, Outbox, Wanted, now_ms};
use metrics::Metrics;
use serde_json::Value;
use shared_config::Networks;
use shared_types::{Problem, Scope};
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often expiry is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Over how long clients are told to reconnect when the server stops.
const SPREAD: Duration = Duration::from_secs(5);

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
        let transport = admitted.transport;
        let connection = Arc::new(Connection::new(socket_id, admitted));
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
            self.lifecycle.connected(&connection.noted_anew());
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
        connection.is_of(scope).then_some(connection)
    }

    /// How many connections of the scope are wanted, and what is known of the first of them, by socket.
    pub fn table(&self, scope: &Scope, wanted: &Wanted) -> (u64, Vec<Value>) {
        let theirs = self.connections.iter().filter(|one| one.is_of(scope));
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
        registry.metrics.connection_closed(connection.transport());
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
