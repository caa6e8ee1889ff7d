//! The document store's contract on PostgreSQL, and what only PostgreSQL can get wrong.

mod archive;
mod trouble;

use database::{
    documents::PostgresDocumentStore,
    event_log::{LogSettings, PostgresEventLog},
    tables::applications,
};
use document_store::contract::{Instance, SeenEvent};
use event_log::{EventLog, HistoryQuery, PageLimit, Start, TopicKey};
use metrics::Metrics;
use shared_types::{AppId, Position, Scope, TopicName};
use std::sync::Arc;
use testkit::TestDatabase;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Keeps the store and the instances alive for a test.
pub struct Guard {
    _tasks: JoinSet<()>,
    database: TestDatabase,
}

async fn start() -> (Guard, Instance, Instance) {
    let database = testkit::database().await;
    let mut connection = database.pool.acquire().await.expect("a connection");
    let other = AppId::from_stored("app_other");
    applications::insert(&mut connection, &other, "Other", &applications::ApplicationConfig::default())
        .await
        .expect("another application");
    let mut tasks = JoinSet::new();
    let mut instance = || {
        let log = PostgresEventLog::start(
            database.pool.clone(),
            LogSettings::default(),
            Metrics::new(),
            &mut tasks,
            CancellationToken::new(),
        );
        let store = Arc::new(PostgresDocumentStore::new(database.pool.clone(), &log));
        Instance { store, events: Arc::new(move |scope, topic| Box::pin(events(log.clone(), scope, topic))) }
    };
    let (first, second) = (instance(), instance());
    (Guard { _tasks: tasks, database }, first, second)
}

async fn events(log: Arc<PostgresEventLog>, scope: Scope, topic: TopicName) -> Vec<SeenEvent> {
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

document_store::contract_tests!(start);
