//! A platform with an event log on PostgreSQL, and outbox services that read and die.

use crate::failing::FailingLog;
use database::{
    event_log::{LogSettings, PostgresEventLog},
    sealing::Sealer,
    tables::applications,
};
use event_log::{EventLog, HistoryQuery, PageLimit, Start, StoredEvent, TopicKey};
use event_router::EventRouter;
use metrics::Metrics;
use outbox::{OutboxParts, OutboxService};
use shared_types::{Environment, Position, Scope, TopicName};
use sqlx::{AssertSqlSafe, PgPool};
use std::sync::Arc;
use testkit::TestDatabase;
pub use testkit::{Running, scope, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A platform.
pub struct Harness {
    pub platform: TestDatabase,
    pub sealer: Arc<Sealer>,
    pub metrics: Arc<Metrics>,
    pub log: Arc<FailingLog>,
    _tasks: JoinSet<()>,
}

impl Harness {
    pub async fn new() -> Self {
        let platform = testkit::database().await;
        let mut tasks = JoinSet::new();
        let metrics = Metrics::new();
        let stop = CancellationToken::new();
        let log = PostgresEventLog::start(
            platform.pool.clone(),
            LogSettings::default(),
            metrics.clone(),
            &mut tasks,
            stop,
        );
        let sealer = Arc::new(Sealer::new(&[7; 32]));
        Self { platform, sealer, metrics, log: FailingLog::around(log), _tasks: tasks }
    }

    pub fn pool(&self) -> &PgPool {
        &self.platform.pool
    }

    /// Starts a service, as one more process would.
    pub fn start(&self) -> Running {
        let parts = OutboxParts {
            pool: self.platform.pool.clone(),
            database_url: self.platform.url.clone(),
            router: EventRouter::new(self.log.clone(), self.metrics.clone()),
            metrics: self.metrics.clone(),
            sealer: self.sealer.clone(),
            private_by_default: true,
        };
        Running::start(|stop| OutboxService::new(parts).run(stop))
    }

    /// Writes a row into the platform's outbox.
    pub async fn write(&self, topic: &str, number: i64) {
        let sql = "insert into event_outbox (topic, event_type, payload, table_name, operation)
            values ($1, 'order.changed', jsonb_build_object('n', $2::bigint), 'orders', 'update')";
        sqlx::query(sql).bind(topic).bind(number).execute(self.pool()).await.unwrap();
    }

    /// Sets the outbox of `environment` of the default application.
    pub async fn set_outbox(&self, environment: Environment, url: Option<&str>) {
        let scope = Scope::new(scope().application().clone(), environment);
        let mut tx = self.pool().begin().await.unwrap();
        let application = applications::lock(&mut tx, scope.application()).await.unwrap().unwrap();
        let mut config = application.config.0;
        match url {
            Some(url) => {
                config.outbox.insert(environment, applications::seal_outbox(&self.sealer, &scope, url))
            }
            None => config.outbox.remove(&environment),
        };
        applications::update(&mut *tx, scope.application(), &application.name, &config).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The events of a topic.
    pub async fn events(&self, scope: &Scope, topic: &str) -> Vec<Arc<StoredEvent>> {
        let key = TopicKey::new(scope, &TopicName::parse(topic).unwrap());
        let head = self.log.head(&key).await.unwrap();
        let query = HistoryQuery {
            start: Start::After(Position::new(&*head.epoch, 0)),
            until: None,
            limit: PageLimit { events: 10_000, bytes: 64 << 20 },
        };
        self.log.history(&key, query).await.unwrap().events
    }

    /// The payloads' numbers of a topic's events.
    pub async fn numbers(&self, topic: &str) -> Vec<i64> {
        numbers(&self.events(&scope(), topic).await)
    }

    /// Waits until nothing waits in the platform's outbox.
    pub async fn settled(&self) {
        until("nothing waits", async || {
            self.count("select count(*) from event_outbox where processed_at is null").await == 0
        })
        .await;
    }

    /// A count in the platform's database.
    pub async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(self.pool()).await.expect(sql)
    }
}

/// The payloads' numbers.
pub fn numbers(events: &[Arc<StoredEvent>]) -> Vec<i64> {
    let number = |event: &Arc<StoredEvent>| {
        let payload: serde_json::Value = serde_json::from_str(event.payload.as_str()).unwrap();
        payload["n"].as_i64().unwrap()
    };
    events.iter().map(number).collect()
}
