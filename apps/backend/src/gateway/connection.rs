//! One connection that was let in: who it is, what it has, and how it is described.
//!
//! Owned by the registry; its session changes it, and the hub writes to its outbox.

use super::lifecycle::ConnectionRecord;
use auth::Identity;
use event_router::{CloseReason, Control, Outbox, ReplyTo, Subscription, Wanted, now_ms};
use metrics::Transport;
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared_types::{ErrorKind, Problem, Scope, SubscriptionId, TopicName};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

/// How long an expired token may be replaced before the connection ends.
const GRACE_MS: i64 = 30_000;
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
    /// Somebody who was let in now.
    pub fn new(socket_id: String, admitted: Admitted) -> Self {
        let Admitted { transport, address, user_agent, outbox, identity } = admitted;
        let since_ms = now_ms();
        Self {
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
        }
    }

    /// Over what it came.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether it belongs to the scope.
    pub fn is_of(&self, scope: &Scope) -> bool {
        self.identity.lock().scope == *scope
    }

    /// As whom others see it: the token's subject, or else the socket's id.
    pub fn client_id(&self) -> String {
        self.identity.lock().sub.as_deref().unwrap_or(&self.socket_id).to_owned()
    }

    /// Who it is, for those who watch the traffic.
    pub fn who(&self) -> Value {
        json!({ "socketId": &*self.socket_id, "clientId": self.client_id() })
    }

    /// As it is written down anew, because others have said that it ended.
    pub fn noted_anew(&self) -> ConnectionRecord {
        self.noted_ms.store(now_ms(), Ordering::Relaxed);
        self.record()
    }

    /// As it is written down.
    pub fn record(&self) -> ConnectionRecord {
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

    /// Whether it is one of those that are wanted.
    pub fn is_wanted(&self, wanted: &Wanted) -> bool {
        let is = |given: &Option<String>, own: &dyn Fn(&str) -> bool| given.as_deref().is_none_or(own);
        is(&wanted.transport, &|transport| transport == self.transport.label())
            && is(&wanted.client_id, &|client| client == self.client_id())
            && is(&wanted.address, &|given| self.address.is_some_and(|own| own.to_string() == given))
            && is(&wanted.channel, &|channel| self.channels.lock().iter().any(|own| own.as_str() == channel))
            && is(&wanted.topic, &|topic| {
                self.subscriptions.lock().values().any(|own| own.key.topic.as_str() == topic)
            })
    }

    /// As it stands in the table.
    pub fn describe(&self, now: i64) -> Value {
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
    pub fn describe_whole(&self) -> Value {
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
    pub fn check_expiry(&self, now: i64) {
        let expired_for = now - self.identity.lock().expires_at_ms;
        if expired_for >= GRACE_MS {
            self.outbox.close(CloseReason::TokenExpired);
        } else if expired_for >= 0 && !self.warned.swap(true, Ordering::Relaxed) {
            let message = match self.transport {
                Transport::ServerSentEvents => {
                    "the token has expired; the stream ends in 30 s: open it again with a new one"
                }
                _ => "the token has expired; send auth:refresh within 30 s",
            };
            let problem = Problem::new(ErrorKind::Unauthenticated, "TOKEN_EXPIRED", message);
            self.outbox.control(ReplyTo::Nothing, Control::Failed(problem));
        }
    }
}
