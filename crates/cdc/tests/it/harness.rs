//! A platform, a target, and the service between them.

use crate::recording::RecordingLog;
use cdc::{CdcParts, CdcService, CdcSettings, CdcTarget, Manage, Names, SpillSettings, TargetSource};
use database::{
    Pool,
    leader::PostgresLeader,
    pool::{PoolSettings, connect_lazy},
    sealing::Sealer,
    tables::{
        cdc::{self as cdc_tables, MappingState, ReaderState, ReaderStatus},
        mappings,
    },
};
use event_log::{Entry, EventLog};
use event_router::EventRouter;
use local_postgres::LocalPostgres;
use metrics::Metrics;
use outbound::Policy;
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared_types::{MappingId, mapping::MappingDefinition};
use sqlx::AssertSqlSafe;
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use testkit::{PATIENCE, TestDatabase};
pub use testkit::{Running, scope};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A target database.
pub struct Target {
    pub pool: Pool,
    pub url: String,
    pub name: String,
    /// Dropped with it; `None` where its whole server is thrown away.
    _database: Option<TestDatabase>,
}

/// The platform and its target.
pub struct Harness {
    pub platform: TestDatabase,
    pub target: Target,
    pub metrics: Arc<Metrics>,
    pub log: Arc<RecordingLog>,
    pub targets: Arc<Mutex<Vec<CdcTarget>>>,
    pub spill: SpillSettings,
    installation: String,
    looks: Arc<AtomicUsize>,
}

impl Harness {
    /// A fresh platform and a fresh target in which `sql` has been run.
    pub async fn new(sql: &str) -> Self {
        let database = testkit::empty_database().await;
        let target = Target {
            pool: database.pool.clone(),
            url: database.url.clone(),
            name: database.name.clone(),
            _database: Some(database),
        };
        Self::with(target, sql).await
    }

    /// A fresh platform, and as target the database `realtime` of a server of its own, in which `sql` has been run.
    pub async fn on(server: &LocalPostgres, sql: &str) -> Self {
        let url = server.url("realtime");
        let pool = connect_lazy(&PoolSettings { min_connections: 0, ..PoolSettings::new(&url) }).unwrap();
        Self::with(Target { pool, url, name: "realtime".to_owned(), _database: None }, sql).await
    }

    async fn with(target: Target, sql: &str) -> Self {
        let platform = testkit::database().await;
        let targets = vec![CdcTarget::of_settings(scope(), target.url.clone(), Manage::Allowed, Policy::Any)];
        let harness = Self {
            spill: SpillSettings { limit_bytes: 64 << 20, slow_after: None },
            installation: format!("{}-{}", target.name, platform.name),
            platform,
            target,
            metrics: Metrics::new(),
            log: RecordingLog::new(),
            targets: Arc::new(Mutex::new(targets)),
            looks: Arc::default(),
        };
        harness.sql(sql).await;
        harness
    }

    /// What tells this installation from others.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// How often the services have looked for targets.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// The slot and the publication.
    pub fn names(&self) -> Names {
        Names::new("test_slot", &self.installation, &self.target.name)
    }

    /// Runs `sql` in the target.
    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.target.pool).await.expect(sql);
    }

    /// One value of the target.
    pub async fn ask<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.target.pool).await.expect(sql)
    }

    /// Creates a mapping; `overrides` replace members of a simple one of `orders`.
    pub async fn mapping(&self, overrides: Value) -> MappingId {
        let mut whole = json!({
            "table": "orders", "topic": "order.changed", "events": ["insert", "update", "delete"],
            "payload": { "id": "$row.id", "status": "$row.status" }
        });
        for (name, value) in overrides.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let definition = MappingDefinition::parse(&whole).unwrap();
        let id = MappingId::generate();
        let mut transaction = self.platform.pool.begin().await.unwrap();
        mappings::create(&mut transaction, &scope(), &id, &definition).await.unwrap();
        transaction.commit().await.unwrap();
        id
    }

    /// Starts a service that appends to the recording log.
    pub fn start(&self) -> Running {
        self.start_with(self.log.clone())
    }

    /// Starts a service that appends to `log`.
    pub fn start_with(&self, log: Arc<dyn EventLog>) -> Running {
        let metrics = self.metrics.clone();
        let settings = CdcSettings {
            slot_prefix: "test_slot".to_owned(),
            installation: self.installation.clone(),
            holder: format!("holder-{}", rand::random::<u32>()),
            events_kept: Some(Duration::from_secs(3600)),
            report_every: Duration::from_secs(1),
            spill: self.spill.clone(),
        };
        let (targets, looks) = (self.targets.clone(), self.looks.clone());
        let source: TargetSource = Arc::new(move || {
            let targets = targets.lock().clone();
            looks.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move { Ok(targets) })
        });
        let router = EventRouter::new(log, metrics.clone());
        let pool = self.platform.pool.clone();
        Running::start(async move |stopping| {
            let (mut tasks, ending) = (JoinSet::new(), CancellationToken::new());
            let leader = PostgresLeader::start(pool.clone(), &mut tasks, ending.clone());
            let sealer = Arc::new(Sealer::new(&[7; 32]));
            let parts = CdcParts { pool, router, metrics, sealer, leader };
            CdcService::new(parts, settings, source).run(stopping).await;
            ending.cancel();
            while tasks.join_next().await.is_some() {}
        })
    }

    /// Starts the service and waits until all its mappings are live.
    pub async fn start_live(&self) -> Running {
        let running = self.start();
        self.live().await;
        running
    }

    /// The reader's status.
    pub async fn status(&self) -> Option<ReaderStatus> {
        cdc_tables::status(&self.platform.pool, &scope()).await.unwrap()
    }

    /// Waits for a status.
    pub async fn status_where(&self, what: &str, test: impl Fn(&ReaderStatus) -> bool) -> ReaderStatus {
        let mut last = None;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.status().await;
                if let Some(status) = last.clone().filter(&test) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        match found.await {
            Ok(status) => status,
            Err(_) => panic!("never {what}: {last:#?}"),
        }
    }

    /// Waits until every active mapping is live.
    pub async fn live(&self) -> ReaderStatus {
        let active = mappings::active(&self.platform.pool, &[scope()]).await.unwrap().len();
        self.status_where("live", |status| {
            status.state == ReaderState::Streaming
                && status.mappings.len() == active
                && status.mappings.iter().all(|m| m.state == MappingState::Live)
        })
        .await
    }

    /// Waits until `count` events are appended, and answers them.
    pub async fn events(&self, count: usize) -> Vec<Entry> {
        let log = self.log.clone();
        self.until(&format!("{count} events"), || {
            let entries = log.entries();
            async move { entries.len() >= count }
        })
        .await;
        let entries = self.log.entries();
        assert_eq!(
            entries.len(),
            count,
            "{:#?}",
            entries.iter().map(|e| e.payload.as_str().to_owned()).collect::<Vec<_>>()
        );
        entries
    }

    /// Waits for a condition.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut test: impl FnMut() -> F) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !test().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            panic!("never {what}; status: {:#?}", self.status().await);
        }
    }

    /// Ends the service and drops the slot, which would keep the target from being dropped.
    pub async fn finish(self, running: Running) {
        running.stop().await;
        self.drop_slot().await;
    }

    /// Drops the slot where it is there, once its walsender has noticed that nobody reads it any more.
    pub async fn drop_slot(&self) {
        let slot = self.names().slot;
        let active = format!(
            "select exists (select from pg_replication_slots where slot_name = '{slot}' and active_pid is not null)"
        );
        self.until("unread", || async { !self.ask::<bool>(&active).await }).await;
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name";
        self.sql(&format!("{drop} = '{slot}'")).await;
    }

    /// The platform's pool.
    pub fn pool(&self) -> &Pool {
        &self.platform.pool
    }
}

/// An entry's payload.
pub fn payload(entry: &Entry) -> Value {
    serde_json::from_str(entry.payload.as_str()).unwrap()
}

/// An entry's metadata.
pub fn metadata(entry: &Entry) -> Value {
    serde_json::from_str(entry.metadata.as_str()).unwrap()
}
