//! Workers as processes over one platform, and the targets that they read.

use database::{
    sealing::Sealer,
    tables::{
        applications,
        cdc::{self, MappingState, ReaderState},
        mappings,
    },
};
use serde_json::json;
use shared_types::{Environment, MappingId, Scope, mapping::MappingDefinition};
use sqlx::AssertSqlSafe;
use std::{
    net::TcpListener,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use testkit::TestDatabase;

const PATIENCE: Duration = Duration::from_secs(60);
/// `REALTIME_SECRET_KEY` of all processes: 32 bytes of 7.
const SECRET_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A process, killed with this.
pub struct Worker(Child);

impl Worker {
    pub fn start(platform: &Platform) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_workers"))
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name == "PATH"))
            .env("DATABASE_URL", &platform.database.url)
            .env("REALTIME_SECRET_KEY", SECRET_KEY)
            .env("PORT", port.to_string())
            .env("NODE_ENV", "development")
            .env("LOG_LEVEL", "warn")
            .envs(platform.redis_url.iter().map(|url| ("REDIS_URL", url)))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Whether `leader` is a name of this process.
    pub fn leads(&self, leader: &str) -> bool {
        leader.starts_with(&format!("{}:", self.0.id()))
    }

    pub fn signal(&mut self, name: &str) {
        let done = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The platform's database, and its Redis where it has one.
pub struct Platform {
    pub database: TestDatabase,
    pub redis_url: Option<String>,
}

impl Platform {
    pub async fn new() -> Self {
        Self { database: testkit::database().await, redis_url: None }
    }

    /// A target of `environment`, of which the inserts into `orders` become events of `order.made`.
    pub async fn target(&self, environment: Environment) -> Target {
        let (database, scope) = (
            testkit::empty_database().await,
            Scope::new(testkit::scope().application().clone(), environment),
        );
        sqlx::query("create table orders (id bigint primary key)").execute(&database.pool).await.unwrap();
        let mut tx = self.database.pool.begin().await.unwrap();
        let application = applications::lock(&mut tx, scope.application()).await.unwrap().unwrap();
        let mut config = application.config.0;
        let target = applications::seal_target(&Sealer::new(&[7; 32]), &scope, &database.url, Some(true));
        config.cdc.insert(environment, target);
        applications::update(&mut *tx, scope.application(), &application.name, &config).await.unwrap();
        let definition = json!({
            "table": "orders", "topic": "order.made", "events": ["insert"], "payload": { "id": "$row.id" }
        });
        let definition = MappingDefinition::parse(&definition).unwrap();
        mappings::create(&mut tx, &scope, &MappingId::generate(), &definition).await.unwrap();
        tx.commit().await.unwrap();
        Target { database, scope }
    }

    /// Who reads the target of `scope`, with all that is mapped.
    pub async fn leader(&self, scope: &Scope) -> Option<String> {
        let status = cdc::status(&self.database.pool, scope).await.unwrap()?;
        let is_live = !status.mappings.is_empty()
            && status.mappings.iter().all(|mapping| mapping.state == MappingState::Live);
        status.leader.filter(|_| status.state == ReaderState::Streaming && is_live)
    }

    /// Waits until `worker` reads all `targets`.
    pub async fn led_by(&self, worker: &Worker, targets: &[&Target]) {
        until("led by the worker", async || {
            for target in targets {
                if !self.leader(&target.scope).await.is_some_and(|leader| worker.leads(&leader)) {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// How many processes are there to lead, where leases are in the database.
    pub async fn candidates(&self) -> i64 {
        let sql = "select count(*) from pg_stat_activity where datname = current_database()
            and query like 'select pid as backend_pid%'";
        self.ask(sql).await
    }

    /// What has become an event of `scope`: the rows' own keys, in order.
    pub async fn keys(&self, scope: &Scope) -> Vec<i64> {
        let sql = "
            select (e.payload::json ->> 'id')::bigint from event_log e join event_log_topics t on t.id = e.topic_id
            where t.application_id = $1 and t.environment = $2 order by e.sequence";
        let query = sqlx::query_scalar(sql).bind(scope.application().as_str());
        query.bind(scope.environment().as_str()).fetch_all(&self.database.pool).await.unwrap()
    }

    /// One value of the platform's database.
    pub async fn ask<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.database.pool).await.expect(sql)
    }
}

/// A target database and whose it is.
pub struct Target {
    pub database: TestDatabase,
    pub scope: Scope,
}

impl Target {
    pub async fn insert(&self, id: i64) {
        let query = sqlx::query("insert into orders values ($1)").bind(id);
        query.execute(&self.database.pool).await.unwrap();
    }

    /// How many slots it has, and how many of them are read.
    pub async fn slots(&self) -> (i64, i64) {
        let sql = "select count(*), count(active_pid) from pg_replication_slots where database = current_database()";
        sqlx::query_as(sql).fetch_one(&self.database.pool).await.unwrap()
    }

    /// Drops the slot, which would keep it from being dropped, once nobody reads it any more.
    pub async fn drop_slot(&self) {
        until("nobody reads", async || self.slots().await.1 == 0).await;
        let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
        sqlx::query(sql).execute(&self.database.pool).await.unwrap();
    }
}

/// Waits for a state.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "never {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
