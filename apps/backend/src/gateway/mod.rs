//! The gateways: Socket.IO, plain WebSocket and server-sent events, as thin codecs around one session.
//!
//! Owns connections: handshake, limits, expiry, revocation, and the end. Knows nothing of what is delivered, which
//! comes from the hub into each connection's outbox, nor of databases.

pub mod channels;
mod connection;
mod cursor;
mod driver;
mod encode;
mod fields;
mod lifecycle;
mod registry;
mod request;
mod session;
mod socketio;
mod sse;
mod traffic;
mod upgrade;
mod websocket;
mod wire;

pub use lifecycle::Lifecycle;
pub use registry::{AddressLimits, Registry};
pub use request::{
    PublishRequest,
    channels::{SayRequest, carried, channel_name, check_event, check_speakable},
};
pub use session::{may_receive, publication, saying};
pub use sse::event_stream;

use crate::{
    http::{ApiError, ClientAddress},
    rates::Rates,
};
use auth::{Authenticator, Identity};
use axum::{
    Router,
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::get,
};
use channels::Channels;
use connection::{Admitted, Connection};
use database::{
    Pool,
    tables::{
        applications::{Limits as ApplicationLimits, TopicPolicy},
        topics,
    },
};
use event_router::{CloseReason, Control, EventRouter, Hub, LiveMessage, Outbox, OutboxLimits, Routed};
use metrics::{Metrics, Transport};
use presence::Presence;

use session::Session;
use shared_config::Config;
use shared_types::{ErrorKind, Problem, Scope, TopicName};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How much of a client's name is kept, in characters.
const USER_AGENT: usize = 256;

/// The limits of a connection (documented defaults in `docs/configuration.md`).
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// Bytes of a client's message.
    pub message_bytes: usize,
    /// Subscriptions a connection.
    pub subscriptions: usize,
    /// Channels a connection.
    pub channels: usize,
    /// Messages a second a connection, on average.
    pub messages_per_second: u32,
    /// Messages at once a connection.
    pub message_burst: u32,
    /// What may wait for a connection.
    pub outbox: OutboxLimits,
    /// What one client address may do.
    pub addresses: AddressLimits,
}

impl GatewayLimits {
    /// The limits that are configured.
    pub fn of(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            message_bytes: limits.message_bytes,
            subscriptions: limits.subscriptions,
            channels: limits.channels,
            messages_per_second: limits.messages_per_second,
            message_burst: limits.message_burst,
            outbox: OutboxLimits { bytes: limits.backlog_bytes, messages: limits.backlog_messages },
            addresses: AddressLimits {
                connections: limits.connections_per_address,
                handshakes_per_minute: limits.handshakes_per_minute,
                exempt: limits.exempt_addresses.clone(),
            },
        }
    }
}

/// What one connection may do: the server's limits, or lower ones of its application.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Channels.
    pub channels: usize,
    /// Messages a second, on average.
    pub messages_per_second: u32,
    /// Messages at once.
    pub message_burst: u32,
}

impl GatewayLimits {
    /// The limits of a connection whose application sets `own`.
    fn lowered(&self, own: Option<&ApplicationLimits>) -> SessionLimits {
        let lower = |server: usize, own: Option<u32>| own.map_or(server, |own| server.min(own as usize));
        let own_rate = own.and_then(|own| own.messages_per_second);
        SessionLimits {
            message_bytes: lower(self.message_bytes, own.and_then(|own| own.message_bytes)),
            subscriptions: lower(self.subscriptions, own.and_then(|own| own.subscriptions)),
            channels: self.channels,
            messages_per_second: own_rate
                .map_or(self.messages_per_second, |own| own.min(self.messages_per_second)),
            // An application's burst is twice its rate, as the server's is by default.
            message_burst: own_rate
                .map_or(self.message_burst, |own| own.saturating_mul(2).min(self.message_burst)),
        }
    }
}

/// Which topics of a scope may be used.
#[derive(Clone)]
pub struct Policy {
    authenticator: Arc<Authenticator>,
    pool: Pool,
}

impl Policy {
    /// The policy as it stands in the applications' settings.
    pub fn new(authenticator: Arc<Authenticator>, pool: Pool) -> Self {
        Self { authenticator, pool }
    }

    /// Whether `topic` may be used.
    ///
    /// # Errors
    /// `NOT_FOUND` where only registered topics may be used and it is none.
    pub async fn check(&self, scope: &Scope, topic: &TopicName) -> Result<(), Problem> {
        let config = self.authenticator.application(scope.application());
        let policy = config.and_then(|config| config.topic_policy.get(&scope.environment()).copied());
        if policy != Some(TopicPolicy::Registered) || topic.as_str().starts_with("sync.") {
            return Ok(());
        }
        match topics::first_unregistered(&self.pool, scope, &[topic.to_string()]).await? {
            Some(name) => Err(Problem::not_found("topic", &name)),
            None => Ok(()),
        }
    }
}

/// What all connections share.
pub struct Gateway {
    pub(crate) hub: Arc<Hub>,
    pub(crate) router: EventRouter,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) policy: Policy,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: GatewayLimits,
    pub(crate) registry: Arc<Registry>,
    pub(crate) tasks: TaskTracker,
    /// What connections say to each other.
    pub channels: Arc<Channels>,
    polling: socketio::PollingSessions,
}

/// What a gateway works with.
pub struct GatewayParts {
    /// Who subscribes to what.
    pub hub: Arc<Hub>,
    /// The way into the log.
    pub router: EventRouter,
    /// Who is let in.
    pub authenticator: Arc<Authenticator>,
    /// The platform's database.
    pub pool: Pool,
    /// Who is where, over all instances.
    pub presence: Arc<dyn Presence>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What connections may do.
    pub limits: GatewayLimits,
    /// How often client addresses ask.
    pub rates: Arc<Rates>,
}

impl Gateway {
    /// A gateway without connections.
    pub fn new(parts: GatewayParts) -> Arc<Self> {
        let GatewayParts { hub, router, authenticator, pool, presence, metrics, limits, rates } = parts;
        let policy = Policy::new(authenticator.clone(), pool);
        let instance = format!("{:016x}", rand::random::<u64>());
        let lifecycle = Lifecycle::new(instance.clone(), router.clone(), presence.clone(), metrics.clone());
        let registry = Registry::new(limits.addresses.clone(), rates, metrics.clone(), lifecycle);
        let log = router.log().clone();
        let (tasks, polling) = (TaskTracker::new(), socketio::PollingSessions::default());
        let channels = Channels::new(instance, log, hub.clone(), presence, registry.clone(), tasks.clone());
        Arc::new(Self {
            hub,
            router,
            authenticator,
            policy,
            metrics,
            limits,
            registry,
            tasks,
            channels,
            polling,
        })
    }

    /// Its routes: `/ws`, `/socket.io/` and `/api/stream`.
    pub fn routes(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/ws", get(websocket::upgrade))
            .route("/socket.io/", get(socketio::get).post(socketio::post))
            .route("/api/stream", get(sse::stream))
            .with_state(self.clone())
    }

    /// Watches expiry, revocation and abandoned polling sessions, keeps this instance's members and `mails`, and writes
    /// down what becomes of connections, until `stop`.
    pub async fn watch(self: Arc<Self>, mails: mpsc::Receiver<Arc<LiveMessage>>, stop: CancellationToken) {
        let registry = self.registry.clone().watch(self.authenticator.clone(), stop.clone());
        let channels = self.channels.clone().run(mails, stop.clone());
        let lifecycle = self.registry.lifecycle.run(stop.clone());
        tokio::join!(registry, channels, lifecycle, self.polling.sweep(stop));
    }

    /// Ends all connections gracefully, within `limit`; the last quarter is for saying that they have ended.
    pub async fn drain(&self, limit: Duration) {
        let begun = Instant::now();
        let gone = begun + limit * 3 / 4;
        self.registry.drain(gone).await;
        self.tasks.close();
        let _ = tokio::time::timeout_at(gone, self.tasks.wait()).await;
        self.registry.lifecycle.finish(begun + limit * 7 / 8).await;
        let last = async {
            self.channels.retire().await;
            self.channels.say_traffic().await;
        };
        let _ = tokio::time::timeout_at(begun + limit, last).await;
    }

    /// Whether `token` lets somebody in from where the handshake comes.
    ///
    /// # Errors
    /// As [`Authenticator::verify_token`]; `ORIGIN_NOT_ALLOWED`; `UNAVAILABLE` while too many beginnings and ends of
    /// connections wait for the log.
    pub(crate) fn admit(&self, token: Option<&str>, handshake: &Handshake) -> Result<Arc<Identity>, Problem> {
        let missing = || Problem::new(ErrorKind::Unauthenticated, "AUTH_FAILED", "a token is required");
        let identity = self.authenticator.verify_token(token.ok_or_else(missing)?)?;
        let config = self.authenticator.application(identity.scope.application());
        let origins = config.as_ref().and_then(|c| c.allowed_origins.get(&identity.scope.environment()));
        if let (Some(origins), Some(origin)) = (origins, &handshake.origin)
            && !origins.iter().any(|allowed| allowed == "*" || allowed == origin)
        {
            return Err(session::refused_origin(origin));
        }
        self.registry.lifecycle.demand_room()?;
        Ok(Arc::new(identity))
    }

    /// The limits of a connection of `scope`.
    pub(crate) fn limits_of(&self, scope: &Scope) -> SessionLimits {
        let config = self.authenticator.application(scope.application());
        self.limits.lowered(config.as_ref().and_then(|config| config.limits.get(&scope.environment())))
    }

    /// The session of somebody who was let in, once others can reach it.
    pub(crate) async fn session(
        self: &Arc<Self>,
        transport: Transport,
        handshake: &Handshake,
        outbox: Arc<Outbox>,
        identity: Arc<Identity>,
    ) -> Session {
        // Boxed, so that the connection's task has no room for it later.
        if !Box::pin(self.channels.is_reached()).await {
            tracing::warn!("a connection is let in before mail of other instances comes");
        }
        let admitted = Admitted {
            transport,
            address: handshake.address,
            user_agent: handshake.user_agent.clone(),
            outbox,
            identity,
        };
        let entered = self.registry.enter(self.channels.socket_id(), admitted);
        self.close_if_revoked(&entered.connection);
        Session::new(self.clone(), entered)
    }

    /// Closes a connection whose token was revoked after it was verified and before the registry knew of it: nobody
    /// else would.
    pub(crate) fn close_if_revoked(&self, connection: &Connection) {
        if self.authenticator.still_holds(&connection.identity()).is_err() {
            connection.outbox.close(CloseReason::Revoked);
        }
    }

    pub(crate) fn welcome(&self, connection: &Connection) -> Control {
        websocket::welcome(&connection.socket_id, &connection.identity())
    }

    /// The event that a publish asks for, if rights and policy allow it.
    pub(crate) async fn publication(
        &self,
        identity: &Identity,
        request: PublishRequest,
    ) -> Result<Routed, Problem> {
        let topic = request.topic.clone();
        let routed = publication(identity, request)?;
        self.policy.check(&identity.scope, &topic).await?;
        Ok(routed)
    }

    pub(crate) fn refuse(&self, problem: &Problem) -> Response {
        self.metrics.rejected(problem.code);
        ApiError::from(problem.clone()).into_response()
    }
}

/// What every handshake carries.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The token from `?token=` or `Authorization: Bearer`.
    pub token: Option<String>,
    /// Where the connection comes from.
    pub address: Option<IpAddr>,
    /// The page that a browser makes it for.
    pub origin: Option<String>,
    /// What the client says it is, at most 256 characters.
    pub user_agent: Option<Box<str>>,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
}

impl Handshake {
    /// The first value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Sync> FromRequestParts<S> for Handshake {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let query: Vec<(String, String)> = query.into_owned().collect();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bearer = header(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        let token = query.iter().find(|(key, _)| key == "token").map(|(_, value)| value.clone()).or(bearer);
        Ok(Self {
            token,
            address: ClientAddress::of(&parts.extensions),
            origin: header(header::ORIGIN),
            user_agent: header(header::USER_AGENT)
                .map(|text| text.chars().take(USER_AGENT).collect::<String>().into()),
            query,
        })
    }
}
