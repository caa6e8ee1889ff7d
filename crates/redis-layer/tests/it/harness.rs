//! Instances of the log over one Redis and one Postgres.

use database::leader::PostgresTerms;
use event_log::{Entry, EventLog, HistoryQuery, Identity, Outcome, PageLimit, Start, StoredEvent, TopicKey};
use metrics::Metrics;
use redis_layer::{RedisLeader, RedisSettings, event_log::RedisEventLog};
use shared_types::{AppId, Environment, EventId, Position, RawObject, Scope, Source, TopicName};
use std::{future::Future, sync::Arc, time::Duration};
use testkit::{LocalRedis, TestDatabase, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long anything may take that ought to happen soon.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One instance.
pub struct Instance {
    pub log: Arc<RedisEventLog>,
    pub metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Instance {
    /// Starts one.
    pub fn start(settings: RedisSettings, database: &TestDatabase) -> Self {
        // A second call finds the same provider installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, mut tasks, metrics) = (CancellationToken::new(), JoinSet::new(), Metrics::new());
        let pool = database.pool.clone();
        let log = RedisEventLog::start(settings, pool, metrics.clone(), &mut tasks, stop.clone());
        Self { log: log.expect("the URL can be used"), metrics, stop, tasks }
    }

    /// Its leases, whose terms are counted in `database`.
    pub fn leader(&mut self, database: &TestDatabase) -> Arc<RedisLeader> {
        let terms = Arc::new(PostgresTerms::new(database.pool.clone()));
        RedisLeader::start(&self.log, terms, &mut self.tasks, self.stop.clone())
    }

    /// Stops it in order.
    pub async fn stop(mut self) {
        self.stop.cancel();
        soon("the tasks end", async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

/// Waits until so many processes hear of it when a lease is given back.
pub async fn listening(server: &LocalRedis, how: &str, count: usize) {
    let count = count.to_string();
    until("that many listen", async || {
        server.command(&["PUBSUB", how, "realtime:{leases}"]).pop() == Some(count.clone())
    })
    .await;
}

/// Waits for something that ought to happen soon.
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(value) => value,
        Err(_) => panic!("{what} within {PATIENCE:?}"),
    }
}

pub fn key(topic: &str) -> TopicKey {
    TopicKey {
        scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
        topic: TopicName::parse(topic).expect("a valid topic"),
    }
}

pub fn entry(key: &TopicKey, id: &str, text: &str, identity: Identity) -> Entry {
    Entry {
        key: key.clone(),
        id: EventId::from_stored(id),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::from_trusted(text),
        metadata: RawObject::from_trusted("{\"timestamp\":1}"),
        identity,
    }
}

pub fn unique(key: &TopicKey, number: u64) -> Entry {
    let id = EventId::generate();
    entry(key, id.as_str(), &format!("{{\"n\":{number}}}"), Identity::Unique)
}

/// Appends one event; answers its position.
pub async fn append_one(log: &Arc<RedisEventLog>, key: &TopicKey, number: u64) -> Position {
    match soon("appended", log.append(vec![unique(key, number)])).await.expect("appended").remove(0) {
        Outcome::Appended(position) => position,
        other => panic!("{other:?}"),
    }
}

/// Everything that is kept of a topic.
pub async fn whole(log: &Arc<RedisEventLog>, key: &TopicKey) -> Vec<Arc<StoredEvent>> {
    let head = soon("head", log.head(key)).await.expect("head");
    let limit = PageLimit { events: 1_000_000, bytes: usize::MAX >> 1 };
    let query = HistoryQuery { start: Start::After(Position::new(head.epoch, 0)), until: None, limit };
    log.history(key, query).await.expect("history").events
}

/// The payloads of events.
pub fn payloads(events: &[Arc<StoredEvent>]) -> Vec<String> {
    events.iter().map(|event| event.payload.as_str().to_owned()).collect()
}
