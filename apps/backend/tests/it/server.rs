//! A backend's REST API on a database of its own, and those who call it. Where `REALTIME_TEST_LOG` is `redis`, the event
//! log and the documents are on a Redis of its own too.

use auth::{AuthSettings, Authenticator, Issuer, NewApiKey, Role, TokenRequest};
use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Method, Request, StatusCode},
};
use backend::{
    gateway::{AddressLimits, Lifecycle, Registry, channels::Channels},
    http::api,
    rates::Rates,
    state::{AppParts, AppState, HttpSettings, Mode},
};
use database::{
    documents::{PostgresArchive, PostgresDocumentStore},
    event_log::{LogSettings, PostgresEventLog},
    presence::PostgresPresence,
    sealing::Sealer,
    tables::{sessions, users},
};
use document_store::{DocumentStore, Durability};
use event_log::EventLog;
use event_router::{EventRouter, Hub, now_ms};
use metrics::Metrics;
use presence::Presence;
use redis_layer::{RedisDocumentStore, RedisSettings, event_log::RedisEventLog};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared_types::{AppId, Environment, Scope, UserId, ids::new_id};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use sync::{Documents, DocumentsSettings};
use testkit::{LocalRedis, Persistence, TestDatabase};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// A running API.
pub struct Server {
    pub test: TestDatabase,
    pub state: AppState,
    /// How far the documents' clock is ahead.
    pub ahead_ms: Arc<AtomicI64>,
    router: Router,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
    redis: Option<LocalRedis>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.text))
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.json()
    }

    /// Checks status and code of a failure, and that it has the one shape.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status.as_u16(), body["code"].as_str()), (status, Some(code)), "{body}");
        for field in ["error", "message", "requestId"] {
            assert!(body[field].is_string(), "{field} in {body}");
        }
        assert_eq!(body["requestId"].as_str(), self.headers["x-request-id"].to_str().ok());
        body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A request that is being put together.
pub struct Call<'s> {
    server: &'s Server,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    peer: Option<SocketAddr>,
}

impl Call<'_> {
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// As who: a token, an API key or a session.
    pub fn by(self, credential: &str) -> Self {
        let value = format!("Bearer {credential}");
        self.header("authorization", value)
    }

    /// From where.
    pub fn from(mut self, peer: &str) -> Self {
        self.peer = Some(peer.parse().unwrap());
        self
    }

    pub fn json(self, body: Value) -> Self {
        self.text(body.to_string())
    }

    pub fn text(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", "application/json")
    }

    pub async fn send(self) -> Answer {
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let mut request = request.body(self.body.map_or_else(Body::empty, Body::from)).unwrap();
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        let response = self.server.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        // A stream of events does not end; who reads one does so over a connection.
        let is_stream = parts.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let body = if is_stream { Body::empty() } else { body };
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }
}

/// What instances of a backend share.
struct Shared {
    log: Arc<dyn EventLog>,
    presence: Arc<dyn Presence>,
    store: Arc<dyn DocumentStore>,
}

/// In the database, or where there is one on Redis.
fn shared(
    test: &TestDatabase,
    redis: Option<&LocalRedis>,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Shared {
    let (pool, metrics) = (test.pool.clone(), metrics.clone());
    let Some(redis) = redis else {
        let log = PostgresEventLog::start(pool.clone(), LogSettings::default(), metrics, tasks, stop.clone());
        let store = Arc::new(PostgresDocumentStore::new(pool.clone(), &log));
        return Shared { log, presence: Arc::new(PostgresPresence::new(pool)), store };
    };
    platform::install_crypto();
    let settings = RedisSettings::new(redis.url());
    let log = RedisEventLog::start(settings, pool.clone(), metrics, tasks, stop.clone()).unwrap();
    let archive = Arc::new(PostgresArchive::new(pool));
    let store = RedisDocumentStore::start(&log, archive, Duration::from_secs(600), tasks, stop.clone());
    Shared { presence: Arc::new(log.presence()), log, store }
}

fn channels(
    Shared { log, presence, .. }: &Shared,
    metrics: Arc<Metrics>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Arc<Channels> {
    let (hub, mails) = Hub::start(log.clone(), metrics.clone(), tasks, stop.clone());
    let router = EventRouter::new(log.clone(), metrics.clone());
    let lifecycle = Lifecycle::new("test".to_owned(), router, presence.clone(), metrics.clone());
    let registry = Registry::new(AddressLimits::default(), Rates::new(None), metrics, lifecycle);
    let tasks_of_channels = TaskTracker::new();
    let channels =
        Channels::new("test".to_owned(), log.clone(), hub, presence.clone(), registry, tasks_of_channels);
    tasks.spawn(channels.clone().run(mails, stop.clone()));
    channels
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut HttpSettings)) -> Self {
        let test = testkit::database().await;
        let sealer = Arc::new(Sealer::new(&[9; 32]));
        let settings = AuthSettings { pool: test.pool.clone(), sealer: sealer.clone(), jwt_secret: None };
        let authenticator = Arc::new(Authenticator::new(settings));
        authenticator.refresh().await.unwrap();
        let (metrics, stop, mut tasks) = (Metrics::new(), CancellationToken::new(), JoinSet::new());
        let follower = authenticator.clone();
        tasks.spawn(async move { follower.follow().await });
        let in_redis = std::env::var("REALTIME_TEST_LOG").is_ok_and(|log| log == "redis");
        let redis = in_redis.then(|| LocalRedis::start(Persistence::Nothing));
        let shared = shared(&test, redis.as_ref(), &metrics, &mut tasks, &stop);
        while !shared.log.conditions().iter().all(|condition| condition.ok) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let documents = documents(shared.store.clone(), metrics.clone(), ahead_ms.clone());
        tasks.spawn(documents.clone().sweep(stop.clone()));
        let channels = channels(&shared, metrics.clone(), &mut tasks, &stop);
        let mut http = HttpSettings::development(&test.url);
        change(&mut http);
        let state = AppParts {
            pool: test.pool.clone(),
            authenticator,
            router: EventRouter::new(shared.log, metrics.clone()),
            documents,
            metrics,
            sealer,
            http,
            channels,
            rates: Rates::new(None),
            draining: Arc::default(),
        };
        let state = AppState::from(state);
        Self { test, router: api(state.clone()), state, ahead_ms, stop, _tasks: tasks, redis }
    }

    /// Whether documents are on Redis, and written to the database after they were acknowledged.
    pub fn is_on_redis(&self) -> bool {
        self.redis.is_some()
    }

    pub fn call(&self, method: Method, path: impl Into<String>) -> Call<'_> {
        Call { server: self, method, path: path.into(), headers: Vec::new(), body: None, peer: None }
    }

    pub fn get(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: impl Into<String>, body: Value) -> Call<'_> {
        self.call(Method::POST, path).json(body)
    }

    pub fn put(&self, path: impl Into<String>, body: Value) -> Call<'_> {
        self.call(Method::PUT, path).json(body)
    }

    pub fn patch(&self, path: impl Into<String>, body: Value) -> Call<'_> {
        self.call(Method::PATCH, path).json(body)
    }

    pub fn delete(&self, path: impl Into<String>) -> Call<'_> {
        self.call(Method::DELETE, path)
    }

    /// The session of a new person with `role`, everywhere or in one application.
    pub async fn person(&self, role: Role, application: Option<&str>) -> String {
        let id = UserId::generate();
        let email = format!("{id}@example.com");
        users::insert(&self.test.pool, &id, &email, "Somebody", "no password").await.unwrap();
        users::assign_role(&self.test.pool, &id, role.as_str(), application).await.unwrap();
        let token = format!("sess_{}", new_id("test"));
        let session = sessions::NewSession {
            id: &new_id("sess"),
            user_id: id.as_str(),
            token_hash: &Sha256::digest(token.as_bytes()),
            address: None,
            user_agent: None,
            idle_seconds: 3_600,
        };
        sessions::insert(&self.test.pool, &session).await.unwrap();
        token
    }

    /// The session of somebody who may do everything.
    pub async fn root(&self) -> String {
        self.person(Role::SuperAdmin, None).await
    }

    /// A token in app_default's development.
    pub async fn token(&self, permissions: &[&str]) -> String {
        let request = TokenRequest {
            application_id: "app_default".to_owned(),
            sub: Some("alice".to_owned()),
            permissions: Some(permissions.iter().map(|&p| p.to_owned()).collect()),
            ..TokenRequest::default()
        };
        self.issue(&request).await
    }

    pub async fn issue(&self, request: &TokenRequest) -> String {
        self.state.authenticator.issue(Issuer::Open, request).await.unwrap().token
    }

    /// An API key of app_default's development.
    pub async fn api_key(&self, permissions: &[&str]) -> String {
        let scope = Scope::new(AppId::from_stored("app_default"), Environment::Development);
        let permissions = Some(permissions.iter().map(|&p| p.to_owned()).collect());
        let mut tx = self.test.pool.begin().await.unwrap();
        let new = NewApiKey { name: "tests".to_owned(), permissions };
        let made = self.state.authenticator.make_api_key(&mut tx, &scope, &new).await.unwrap();
        tx.commit().await.unwrap();
        self.state.authenticator.refresh().await.unwrap();
        made.key
    }

    /// A new application's id.
    pub async fn application(&self, root: &str) -> String {
        let made =
            self.post("/api/applications", serde_json::json!({ "name": "Other" })).by(root).send().await.ok();
        made["id"].as_str().unwrap().to_owned()
    }
}

fn documents(
    store: Arc<dyn DocumentStore>,
    metrics: Arc<Metrics>,
    ahead_ms: Arc<AtomicI64>,
) -> Arc<Documents> {
    let settings = DocumentsSettings {
        max_bytes: 1024 * 1024,
        durability: Durability::Acknowledged,
        clock: Arc::new(move || now_ms() + ahead_ms.load(Ordering::Relaxed)),
    };
    Arc::new(Documents::new(store, metrics, settings))
}

/// The settings of a production server.
pub fn production(settings: &mut HttpSettings) {
    settings.mode = Mode::Production;
    settings.own_database_as_target = false;
}
