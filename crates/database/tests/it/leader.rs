//! The contract of leadership on PostgreSQL, and what its rows count for leases that are kept elsewhere.

use database::leader::{PostgresLeader, PostgresTerms};
use futures::FutureExt as _;
use leadership::{Leader as _, Terms as _, contract::Leases};
use std::sync::Arc;
use testkit::{TestDatabase, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

struct Guard {
    database: TestDatabase,
    tasks: JoinSet<()>,
}

impl Guard {
    async fn new() -> Self {
        Self { database: testkit::database().await, tasks: JoinSet::new() }
    }

    /// One that listens.
    async fn leader(&mut self) -> Arc<PostgresLeader> {
        let before = self.sessions().await;
        let stop = CancellationToken::new();
        let leader = PostgresLeader::start(self.database.pool.clone(), &mut self.tasks, stop);
        until("it has a session", async || self.sessions().await > before).await;
        leader
    }

    async fn sessions(&self) -> i64 {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
            and query like 'select pid as backend_pid%'";
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
    }
}

async fn start() -> (Guard, Leases) {
    let mut guard = Guard::new().await;
    let leaders: [Arc<dyn leadership::Leader>; 2] = [guard.leader().await, guard.leader().await];
    let pool = guard.database.pool.clone();
    let lose = move |name: &str| {
        let (pool, name) = (pool.clone(), name.to_owned());
        async move {
            let sql = "update leases set holder = null, expires_at = '-infinity' where name = $1";
            sqlx::query(sql).bind(name).execute(&pool).await.unwrap();
        }
        .boxed()
    };
    (guard, Leases { leaders, lose: Box::new(lose) })
}

leadership::contract_tests!(start);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_held_here_is_not_held_elsewhere() {
    let mut guard = Guard::new().await;
    let (here, terms) = (guard.leader().await, PostgresTerms::new(guard.database.pool.clone()));
    let first = here.acquire("cdc/a", "1:a").await.unwrap().unwrap();
    assert_eq!(terms.raise("cdc/a", "2:b").await.unwrap(), None);
    here.release("cdc/a", first).await.unwrap();
    let second = terms.raise("cdc/a", "2:b").await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(terms.holder("cdc/a", second).await.unwrap().as_deref(), Some("2:b"));
    assert_eq!(terms.holder("cdc/a", first).await.unwrap(), None);
    // Whoever knows of no other place finds it free.
    let third = here.acquire("cdc/a", "1:a").await.unwrap().unwrap();
    assert!(third > second);
    assert_eq!(terms.holder("cdc/a", second).await.unwrap(), None);
    terms.end("cdc/a", second).await.unwrap();
    assert!(here.renew("cdc/a", third).await.unwrap(), "a term that is over ends no later one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_term_ends_an_earlier_lease_for_good() {
    let mut guard = Guard::new().await;
    let (here, terms) = (guard.leader().await, PostgresTerms::new(guard.database.pool.clone()));
    let paused = here.acquire("cdc/a", "1:a").await.unwrap().unwrap();
    sqlx::query("update leases set expires_at = clock_timestamp()")
        .execute(&guard.database.pool)
        .await
        .unwrap();
    let later = terms.raise("cdc/a", "2:b").await.unwrap().unwrap();
    assert!(later > paused);
    assert!(!here.renew("cdc/a", paused).await.unwrap(), "it may not come back beside the other");
    assert_eq!(terms.holder("cdc/a", later).await.unwrap().as_deref(), Some("2:b"));
    terms.end("cdc/a", later).await.unwrap();
    assert_eq!(terms.holder("cdc/a", later).await.unwrap(), None);
}
