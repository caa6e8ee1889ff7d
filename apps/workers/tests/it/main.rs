//! Workers as processes: one leads, another takes over.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use database::tables::{
    cdc::{self, ReaderState},
    mappings,
};
use serde_json::json;
use shared_types::{AppId, Environment, MappingId, Scope, mapping::MappingDefinition};
use sqlx::AssertSqlSafe;
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use testkit::TestDatabase;

const PATIENCE: Duration = Duration::from_secs(60);

fn scope() -> Scope {
    Scope::new(AppId::from_stored("app_default"), Environment::Development)
}

/// A process, killed with this.
struct Worker(Child);

impl Worker {
    fn start(platform: &TestDatabase, target: &TestDatabase) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_workers"))
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| name == "PATH"))
            .env("DATABASE_URL", &platform.url)
            .env("CDC_DATABASE_URL", &target.url)
            .env("PORT", port.to_string())
            .env("NODE_ENV", "development")
            .env("LOG_LEVEL", "warn")
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn leads(&self, leader: Option<&str>) -> bool {
        leader.is_some_and(|leader| leader.starts_with(&format!("{}:", self.0.id())))
    }

    fn signal(&mut self, name: &str) {
        let done = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Bench {
    platform: TestDatabase,
    target: TestDatabase,
    inserted: i64,
}

impl Bench {
    async fn new() -> Self {
        let (platform, target) = (testkit::database().await, testkit::empty_database().await);
        sqlx::query("create table orders (id int primary key)").execute(&target.pool).await.unwrap();
        let definition = json!({ "table": "orders", "topic": "order.made", "events": ["insert"], "payload": { "id": "$row.id" } });
        let definition = MappingDefinition::parse(&definition).unwrap();
        let mut transaction = platform.pool.begin().await.unwrap();
        mappings::create(&mut transaction, &scope(), &MappingId::generate(), &definition).await.unwrap();
        transaction.commit().await.unwrap();
        Self { platform, target, inserted: 0 }
    }

    /// Who reads, once somebody else than `not` does.
    async fn leader(&self, not: Option<&Worker>) -> Option<String> {
        let status = cdc::status(&self.platform.pool, &scope()).await.unwrap()?;
        let streams = status.state == ReaderState::Streaming && status.leader.is_some();
        let other = not.is_none_or(|worker| !worker.leads(status.leader.as_deref()));
        status.leader.filter(|_| streams && other)
    }

    async fn until<T>(&self, what: &str, mut test: impl AsyncFnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = test().await {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn insert(&mut self) {
        self.inserted += 1;
        let sql = format!("insert into orders values ({})", self.inserted);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.target.pool).await.unwrap();
    }

    /// Waits until every row is in the log, each once and in order.
    async fn all_arrive(&self) {
        let ids = async || {
            let sql = "select (payload ->> 'id')::bigint from (select sequence, payload::json from event_log) e order by sequence";
            let ids: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&self.platform.pool).await.unwrap();
            (ids.len() as i64 >= self.inserted).then_some(ids)
        };
        let found = self.until("all rows", ids).await;
        assert_eq!(found, (1..=self.inserted).collect::<Vec<_>>());
    }
}

/// Ends the leader of two, and answers how long it took until the other reads.
async fn ends(bench: &mut Bench, workers: &mut Vec<Worker>, signal: &str) -> Duration {
    let leader = bench.until("a leader", async || bench.leader(None).await).await;
    let at = workers.iter().position(|worker| worker.leads(Some(&leader))).unwrap();
    let mut leading = workers.remove(at);
    bench.insert().await;
    bench.all_arrive().await;
    let begun = Instant::now();
    leading.signal(signal);
    bench.insert().await;
    bench.until("another leader", async || bench.leader(Some(&leading)).await).await;
    bench.all_arrive().await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_within_five_seconds_and_a_stopping_one_at_once() {
    let mut bench = Bench::new().await;
    let mut workers = vec![Worker::start(&bench.platform, &bench.target)];
    bench.until("a leader", async || bench.leader(None).await).await;
    workers.push(Worker::start(&bench.platform, &bench.target));
    let mut took = Vec::new();
    for signal in ["-KILL", "-TERM", "-KILL", "-TERM"] {
        // Both have to be up before the leader ends, or the other's start is measured.
        let sessions = "select count(*) from pg_stat_activity where datname = current_database() and query like 'select pid as backend_pid%'";
        bench
            .until("two that wait", async || {
                let count: i64 = sqlx::query_scalar(sessions).fetch_one(&bench.platform.pool).await.unwrap();
                (count == 2).then_some(())
            })
            .await;
        let within = ends(&mut bench, &mut workers, signal).await;
        took.push((signal, within));
        let limit = if signal == "-KILL" { Duration::from_secs(5) } else { Duration::from_secs(3) };
        assert!(within < limit, "{took:?}");
        workers.push(Worker::start(&bench.platform, &bench.target));
    }
    eprintln!("replaced after {took:?}");
    for worker in &mut workers {
        worker.signal("-TERM");
    }
    let codes: Vec<_> = workers.iter_mut().map(|worker| worker.0.wait().unwrap()).collect();
    // The one that was started last may have been told before it could listen.
    assert!(codes[0].success(), "{codes:?}");
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
    sqlx::query(sql).execute(&bench.target.pool).await.unwrap();
}
