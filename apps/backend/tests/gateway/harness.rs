//! A platform for a test: a fresh database, and instances of a backend's gateways on it.

use crate::token::SECRET;
use auth::{AuthSettings, Authenticator};
use axum::serve::ListenerExt as _;
use backend::{
    gateway::{Gateway, GatewayLimits},
    http,
    state::{AppState, HttpSettings},
};
use database::{
    event_log::{LogSettings, PostgresEventLog},
    sealing::Sealer,
};
use event_log::Identity;
use event_router::{EventRouter, Hub, OutboxLimits, Routed};
use metrics::Metrics;
use serde_json::{Value, json};
use shared_types::{AppId, Draft, Environment, Position, RawObject, Scope, Source, TopicName};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};
use testkit::TestDatabase;
use tokio::{net::TcpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How long anything may take that ought to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One database, on which instances are started.
pub struct Platform {
    pub database: TestDatabase,
}

/// The gateways of one backend.
pub struct Instance {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    pub router: EventRouter,
    pub authenticator: Arc<Authenticator>,
    pub metrics: Arc<Metrics>,
    _stop: tokio_util::sync::DropGuard,
    _tasks: JoinSet<()>,
}

/// The limits as documented.
pub fn limits() -> GatewayLimits {
    GatewayLimits {
        message_bytes: 64 << 10,
        subscriptions: 1_000,
        messages_per_second: 100,
        message_burst: 200,
        outbox: OutboxLimits::default(),
        connections_per_address: None,
    }
}

/// The scope of tokens that say nothing else.
pub fn default_scope() -> Scope {
    Scope::new(AppId::from_stored("app_default"), Environment::Development)
}

/// Waits for something that ought to happen soon.
///
/// # Panics
/// Naming `what` where it does not.
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(value) => value,
        Err(_) => panic!("{what} within {PATIENCE:?}"),
    }
}

impl Platform {
    /// A platform without instances.
    pub async fn start() -> Self {
        Self { database: testkit::database().await }
    }

    /// One with one instance.
    pub async fn with_instance() -> (Self, Instance) {
        let platform = Self::start().await;
        let instance = platform.instance().await;
        (platform, instance)
    }

    /// An instance with the documented limits.
    pub async fn instance(&self) -> Instance {
        self.instance_with(limits()).await
    }

    /// An instance with other limits.
    pub async fn instance_with(&self, limits: GatewayLimits) -> Instance {
        let (stop, mut tasks, metrics) = (CancellationToken::new(), JoinSet::new(), Metrics::new());
        let pool = self.database.pool.clone();
        let settings = LogSettings::default();
        let log = PostgresEventLog::start(pool.clone(), settings, metrics.clone(), &mut tasks, stop.clone());
        let hub = Hub::start(log.clone(), metrics.clone(), &mut tasks, stop.clone());
        let router = EventRouter::new(log, metrics.clone());
        let sealer = Arc::new(Sealer::new(&[3; 32]));
        let authenticator = Arc::new(Authenticator::new(AuthSettings {
            pool: pool.clone(),
            sealer: sealer.clone(),
            jwt_secret: Some(SECRET.to_owned()),
        }));
        authenticator.refresh().await.unwrap();
        let follower = authenticator.clone();
        tasks.spawn(async move { follower.follow().await });
        let count = Arc::new(AtomicUsize::new(0));
        let gateway = Gateway::new(
            hub,
            router.clone(),
            authenticator.clone(),
            pool.clone(),
            metrics.clone(),
            limits,
            count.clone(),
        );
        tasks.spawn(gateway.clone().watch(stop.clone()));
        let state = AppState {
            pool,
            authenticator: authenticator.clone(),
            router: router.clone(),
            metrics: metrics.clone(),
            sealer,
            http: Arc::new(HttpSettings::development(&self.database.url)),
            connections: count,
            draining: Arc::new(AtomicBool::new(false)),
        };
        let address = serve(http::app(state, gateway.routes()), &mut tasks);
        let _stop = stop.drop_guard();
        Instance { gateway, address, router, authenticator, metrics, _stop, _tasks: tasks }
    }

    /// A second application beside the default one.
    pub async fn add_application(&self, id: &str) {
        let mut connection = self.database.pool.acquire().await.unwrap();
        let (id, config) = (AppId::from_stored(id), Default::default());
        database::tables::applications::insert(&mut connection, &id, "another", &config).await.unwrap();
    }

    /// Loses what is known of a topic, as a restored database would have.
    pub async fn forget_topic(&self, topic: &str) {
        let events = "delete from event_log where topic_id in (select id from event_log_topics where topic = $1)";
        for sql in [events, "delete from event_log_topics where topic = $1"] {
            let deleted = sqlx::query(sql).bind(topic).execute(&self.database.pool);
            assert!(deleted.await.unwrap().rows_affected() > 0);
        }
    }

    /// Lets a topic's events up to `offset` go, as retention does.
    pub async fn expire(&self, topic: &str, offset: i64) {
        let sql = "delete from event_log e using event_log_topics t \
                   where t.id = e.topic_id and t.topic = $1 and e.topic_offset <= $2";
        let deleted = sqlx::query(sql).bind(topic).bind(offset).execute(&self.database.pool);
        assert_eq!(deleted.await.unwrap().rows_affected(), offset.unsigned_abs());
    }
}

/// Serves on a free port. Small buffers, so that a client that does not read is felt soon.
fn serve(app: axum::Router, tasks: &mut JoinSet<()>) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1_024).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener.tap_io(|socket| socket.set_nodelay(true).unwrap());
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
    address
}

impl Instance {
    /// Publishes to a topic of the default scope; answers its position.
    pub async fn publish(&self, topic: &str, payload: Value) -> Position {
        self.publish_in(&default_scope(), topic, payload).await
    }

    /// Publishes to a topic of some scope.
    pub async fn publish_in(&self, scope: &Scope, topic: &str, payload: Value) -> Position {
        let report = self.router.route_one(routed(scope, topic, &payload)).await.unwrap();
        report.position.unwrap()
    }

    /// Publishes `{ "n": number }` for each number, all at once.
    pub async fn publish_numbers(&self, topic: &str, numbers: impl IntoIterator<Item = u64>) {
        let scope = default_scope();
        let batch = numbers.into_iter().map(|n| routed(&scope, topic, &json!({ "n": n }))).collect();
        self.router.route(batch).await.unwrap();
    }

    /// `http://…` of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn routed(scope: &Scope, topic: &str, payload: &Value) -> Routed {
    let draft = Draft {
        topic: TopicName::parse(topic).unwrap(),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::parse(&payload.to_string()).unwrap(),
        id: None,
        timestamp_ms: None,
        extra_metadata: String::new(),
    };
    Routed { scope: scope.clone(), draft, identity: Identity::Unique }
}
