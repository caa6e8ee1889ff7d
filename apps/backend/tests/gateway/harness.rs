//! A platform for a test: a fresh database, and instances of a backend's gateways on it.

use crate::token::SECRET;
use auth::{AuthSettings, Authenticator};
use axum::serve::ListenerExt as _;
use backend::{
    gateway::{AddressLimits, Gateway, GatewayLimits, GatewayParts},
    http,
    rates::Rates,
    state::{AppParts, HttpSettings},
};
use database::{
    documents::{PostgresArchive, PostgresDocumentStore},
    event_log::{LogSettings, PostgresEventLog},
    presence::PostgresPresence,
    sealing::Sealer,
};
use document_store::{DocumentStore, Durability};
use event_log::{EventLog, Identity, TopicKey};
use event_router::{EventRouter, Hub, OutboxLimits, Routed};
use metrics::Metrics;
use presence::Presence;
use redis_layer::{RedisCounters, RedisDocumentStore, RedisSettings, event_log::RedisEventLog};
use serde_json::{Value, json};
use shared_types::{AppId, Draft, Environment, Position, RawObject, Scope, Source, TopicName};
use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use sync::{Documents, DocumentsSettings};
use testkit::{LocalRedis, Persistence, TestDatabase};
use tokio::{net::TcpSocket, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How long anything may take that ought to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One database, on which instances are started, and where `REALTIME_TEST_LOG` is `redis` a server that holds the
/// event log.
pub struct Platform {
    pub database: TestDatabase,
    redis: Option<LocalRedis>,
}

/// What instances share: the log, who is where, the documents, and counters.
type Shared = (Arc<dyn EventLog>, Arc<dyn Presence>, Arc<dyn DocumentStore>, Option<RedisCounters>);

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
        channels: 100,
        messages_per_second: 100,
        message_burst: 200,
        outbox: OutboxLimits::default(),
        addresses: AddressLimits::default(),
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
        let in_redis = std::env::var("REALTIME_TEST_LOG").is_ok_and(|log| log == "redis");
        let redis = in_redis.then(|| LocalRedis::start(Persistence::Nothing));
        Self { database: testkit::database().await, redis }
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
        let local =
            PostgresEventLog::start(pool.clone(), settings, metrics.clone(), &mut tasks, stop.clone());
        let (log, presence, store, counters): Shared = match &self.redis {
            Some(redis) => {
                let log = self.redis_log(redis, &metrics, &mut tasks, &stop);
                let archive = Arc::new(PostgresArchive::new(pool.clone()));
                let ttl = Duration::from_secs(600);
                let store = RedisDocumentStore::start(&log, archive, ttl, &mut tasks, stop.clone());
                (log.clone(), Arc::new(log.presence()), store, Some(log.counters()))
            }
            None => {
                let store = Arc::new(PostgresDocumentStore::new(pool.clone(), &local));
                (local.clone(), Arc::new(PostgresPresence::new(pool.clone())), store, None)
            }
        };
        let rates = Rates::new(counters);
        tasks.spawn(rates.clone().run(stop.clone()));
        let (hub, mails) = Hub::start(log.clone(), metrics.clone(), &mut tasks, stop.clone());
        let settings = DocumentsSettings {
            max_bytes: 1024 * 1024,
            durability: Durability::Acknowledged,
            clock: Arc::new(event_router::now_ms),
        };
        let documents = Arc::new(Documents::new(store, metrics.clone(), settings));
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
        let gateway = Gateway::new(GatewayParts {
            hub,
            router: router.clone(),
            authenticator: authenticator.clone(),
            pool: pool.clone(),
            presence,
            metrics: metrics.clone(),
            limits,
            rates: rates.clone(),
        });
        tasks.spawn(gateway.clone().watch(mails, stop.clone()));
        let state = AppParts {
            pool,
            authenticator: authenticator.clone(),
            router: router.clone(),
            documents,
            metrics: metrics.clone(),
            sealer,
            http: HttpSettings::development(&self.database.url),
            channels: gateway.channels.clone(),
            rates,
            draining: Arc::new(AtomicBool::new(false)),
        };
        let address = serve(http::app(state.into(), gateway.routes()), &mut tasks);
        let _stop = stop.drop_guard();
        Instance { gateway, address, router, authenticator, metrics, _stop, _tasks: tasks }
    }

    fn redis_log(
        &self,
        redis: &LocalRedis,
        metrics: &Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Arc<RedisEventLog> {
        platform::install_crypto();
        let (settings, pool) = (RedisSettings::new(redis.url()), self.database.pool.clone());
        RedisEventLog::start(settings, pool, metrics.clone(), tasks, stop.clone()).unwrap()
    }

    /// A second application beside the default one.
    pub async fn add_application(&self, id: &str) {
        let mut connection = self.database.pool.acquire().await.unwrap();
        let (id, config) = (AppId::from_stored(id), Default::default());
        database::tables::applications::insert(&mut connection, &id, "another", &config).await.unwrap();
    }

    /// Loses what is known of a topic, as a restored database would have.
    pub async fn forget_topic(&self, topic: &str) {
        if let Some(redis) = &self.redis {
            let deleted = redis.command(&["DEL", &redis_key("head", topic), &redis_key("history", topic)]);
            return assert_eq!(deleted, ["2"]);
        }
        let events =
            "delete from event_log where topic_id in (select id from event_log_topics where topic = $1)";
        for sql in [events, "delete from event_log_topics where topic = $1"] {
            let deleted = sqlx::query(sql).bind(topic).execute(&self.database.pool);
            assert!(deleted.await.unwrap().rows_affected() > 0);
        }
    }

    /// Loses all members of all places and leaves the leases, as a crash of whoever keeps them can.
    pub async fn lose_members(&self) {
        let Some(redis) = &self.redis else {
            let sql = "truncate presence_members, presence_kept";
            sqlx::query(sql).execute(&self.database.pool).await.unwrap();
            return;
        };
        let delete =
            "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end return 1";
        for what in ["presence", "sockets", "clients", "places", "instance"] {
            let pattern = format!("realtime:{what}:*");
            assert_eq!(redis.command(&["EVAL", delete, "0", &pattern]), ["1"]);
        }
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// Lets a topic's events up to `offset` go, as retention does.
    pub async fn expire(&self, topic: &str, offset: i64) {
        if let Some(redis) = &self.redis {
            let first = (offset + 1).to_string();
            let trimmed = redis.command(&["XTRIM", &redis_key("history", topic), "MINID", &first]);
            return assert_eq!(trimmed, [offset.to_string()]);
        }
        let sql = "delete from event_log e using event_log_topics t \
                   where t.id = e.topic_id and t.topic = $1 and e.topic_offset <= $2";
        let deleted = sqlx::query(sql).bind(topic).bind(offset).execute(&self.database.pool);
        assert_eq!(deleted.await.unwrap().rows_affected(), offset.unsigned_abs());
    }
}

/// The key of a topic of the default scope.
fn redis_key(name: &str, topic: &str) -> String {
    let key = TopicKey { scope: default_scope(), topic: TopicName::parse(topic).unwrap() };
    let partition = event_log::partition_of(&key, 64);
    format!("realtime:{{p{partition:02}}}:{name}:app_default:development:{topic}")
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
