//! The document store on Redis: the contract, on a server and on a cluster, and what only two places together can get
//! wrong.
//!
//! With `REALTIME_TEST_REDISJSON` naming the module's file, servers load it, and the same tests run on the other encoding.

mod archive;
mod halves;
mod lost;
mod positions;
mod trouble;

use crate::harness::soon;
use database::{documents::PostgresArchive, tables::applications};
use document_store::{
    Archived, Change, Document, DocumentArchive, DocumentId, DocumentKey, DocumentStore, Durability, Edit,
    ServiceName, StoreError,
    contract::{Instance, SeenEvent},
};
use event_log::{EventLog, HistoryQuery, PageLimit, Start, TopicKey};
use metrics::Metrics;
use redis_layer::{RedisDocumentStore, RedisSettings, event_log::RedisEventLog};
use shared_types::{AppId, Environment, Position, Scope, TopicName};
use std::{sync::Arc, time::Duration};
use testkit::{LocalRedis, LocalRedisCluster, Persistence, TestDatabase};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(20);
/// As configured where nothing is said.
const TTL: Duration = Duration::from_secs(600);

/// One process's log and store.
struct Process {
    log: Arc<RedisEventLog>,
    store: Arc<RedisDocumentStore>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Process {
    fn start(url: &str, database: &TestDatabase) -> Self {
        Self::start_with(url, database, Arc::new(PostgresArchive::new(database.pool.clone())), TTL)
    }

    fn start_with(
        url: &str,
        database: &TestDatabase,
        archive: Arc<dyn DocumentArchive>,
        ttl: Duration,
    ) -> Self {
        // A second call finds the same provider installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (stop, mut tasks, metrics) = (CancellationToken::new(), JoinSet::new(), Metrics::new());
        let (settings, pool) = (RedisSettings::new(url), database.pool.clone());
        let log = RedisEventLog::start(settings, pool, metrics.clone(), &mut tasks, stop.clone());
        let log = log.expect("the URL can be used");
        let store = RedisDocumentStore::start(&log, archive, ttl, &mut tasks, stop.clone());
        Self { log, store, metrics, stop, tasks }
    }

    /// As the contract sees it.
    fn instance(&self) -> Instance {
        let log = self.log.clone();
        Instance {
            store: self.store.clone(),
            events: Arc::new(move |scope, topic| Box::pin(events(log.clone(), scope, topic))),
        }
    }

    async fn commit(&self, key: &DocumentKey, edit: Edit) -> Result<Document, StoreError> {
        soon("an answer", self.store.commit(key, edit, Durability::Acknowledged)).await
    }

    async fn commit_durably(&self, key: &DocumentKey, edit: Edit) -> Result<Document, StoreError> {
        soon("an answer", self.store.commit(key, edit, Durability::Committed)).await
    }

    async fn get(&self, key: &DocumentKey) -> Option<Document> {
        soon("an answer", self.store.get(key)).await.expect("read")
    }

    /// Stops it in order.
    async fn stop(mut self) {
        self.stop.cancel();
        soon("the tasks end", async { while self.tasks.join_next().await.is_some() {} }).await;
    }

    /// Ends it as a crash would: what it had in memory is gone.
    fn kill(mut self) {
        self.tasks.abort_all();
    }
}

async fn events(log: Arc<RedisEventLog>, scope: Scope, topic: TopicName) -> Vec<SeenEvent> {
    let key = TopicKey { scope, topic };
    let head = log.head(&key).await.expect("head");
    let start = Start::After(Position::new(head.epoch, 0));
    let limit = PageLimit { events: 100_000, bytes: 1 << 30 };
    let page = log.history(&key, HistoryQuery { start, until: None, limit }).await.expect("history");
    let seen = page.events.iter().map(|event| SeenEvent {
        offset: event.position.offset,
        id: event.id.to_string(),
        kind: event.kind.to_string(),
        payload: serde_json::from_str(event.payload.as_str()).expect("a payload is JSON"),
    });
    seen.collect()
}

/// A server of the encoding under test.
fn server(persistence: Persistence) -> LocalRedis {
    match std::env::var("REALTIME_TEST_REDISJSON") {
        Ok(module) => LocalRedis::start_with(persistence, &["--loadmodule", &module]),
        Err(_) => LocalRedis::start(persistence),
    }
}

fn key(id: &str) -> DocumentKey {
    DocumentKey {
        scope: Scope::new(AppId::from_stored("app_default"), Environment::Development),
        service: ServiceName::parse("service", "notes").expect("valid"),
        id: DocumentId::parse(id).expect("valid"),
    }
}

/// The document's key in Redis.
fn redis_key(name: &str, key: &DocumentKey) -> String {
    let partition = event_log::partition_of(&TopicKey { scope: key.scope.clone(), topic: updated(key) }, 64);
    format!("syncdoc:{name}:{{p{partition:02}}}:app_default:development:{}:{}", key.service, key.id)
}

/// The topic of a document's updates.
fn updated(key: &DocumentKey) -> TopicName {
    Change::Updated.topic(&key.service)
}

/// What the database holds.
async fn archived(database: &TestDatabase, key: &DocumentKey) -> Option<Document> {
    let archive = PostgresArchive::new(database.pool.clone());
    match archive.load(vec![key.clone()]).await.expect("read").remove(0) {
        Archived::Document(document) => Some(document),
        Archived::Never | Archived::NoScope => None,
    }
}

/// Waits until `holds`, which the store brings about by itself.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// Waits until the database holds `document` with all of its revisions, and Redis knows it.
async fn flushed(server: &LocalRedis, database: &TestDatabase, document: &Document) {
    let key = &document.key;
    until("the document is flushed", async || {
        let rows: i64 = sqlx::query_scalar("select count(*) from sync_document_revisions where id = $1")
            .bind(key.id.as_str())
            .fetch_one(&database.pool)
            .await
            .expect("a count");
        archived(database, key).await.as_ref() == Some(document)
            && rows.unsigned_abs() == document.revision
            && server.command(&["EXISTS", &redis_key("unflushed", key)]) == ["0"]
    })
    .await;
}

/// Keeps the servers and the processes alive for a test.
struct Guard<Server> {
    _processes: [Process; 2],
    _server: Server,
    _database: TestDatabase,
}

async fn two<Server>(url: &str, server: Server) -> (Guard<Server>, Instance, Instance) {
    let database = testkit::database().await;
    let mut connection = database.pool.acquire().await.expect("a connection");
    let other = AppId::from_stored("app_other");
    applications::insert(&mut connection, &other, "Other", &applications::ApplicationConfig::default())
        .await
        .expect("another application");
    let processes = [(); 2].map(|()| Process::start(url, &database));
    let (first, second) = (processes[0].instance(), processes[1].instance());
    (Guard { _processes: processes, _server: server, _database: database }, first, second)
}

mod on_a_server {
    use super::*;

    async fn start() -> (Guard<LocalRedis>, Instance, Instance) {
        let server = server(Persistence::Nothing);
        two(&server.url(), server).await
    }

    document_store::contract_tests!(start);
}

mod on_a_cluster {
    use super::*;

    async fn start() -> (Guard<LocalRedisCluster>, Instance, Instance) {
        let cluster = LocalRedisCluster::start();
        two(&cluster.url(), cluster).await
    }

    document_store::contract_tests!(start);
}
