//! Many rows, with the event log on Postgres behind: all of them, once, in order, and not one by one.

use crate::harness::{Harness, scope};
use database::event_log::{LogSettings, PostgresEventLog};
use metrics::Metrics;
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const ORDERS: &str = "create table orders (id int primary key, customer int, status text, amount numeric(10,2), note text, created_at timestamptz default now())";

/// The log with what keeps it running.
struct Log {
    log: Arc<PostgresEventLog>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Log {
    fn start(harness: &Harness) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let settings = LogSettings::default();
        let log = PostgresEventLog::start(
            harness.pool().clone(),
            settings,
            Metrics::new(),
            &mut tasks,
            stop.clone(),
        );
        Self { log, tasks, stop }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn appended(harness: &Harness) -> i64 {
    let sql = "select coalesce(sum(last_offset), 0)::bigint from event_log_topics where application_id = $1";
    sqlx::query_scalar(sql).bind(scope().application().as_str()).fetch_one(harness.pool()).await.unwrap()
}

/// The ids in the topic's order are 1 to `count`.
async fn in_order(harness: &Harness, count: i64) {
    let sql = "select count(*) filter (where (payload::json ->> 'id')::bigint = topic_offset), count(*) from event_log";
    let (right, all): (i64, i64) = sqlx::query_as(sql).fetch_one(harness.pool()).await.unwrap();
    assert_eq!((right, all), (count, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_transactions_arrive_whole_and_in_order() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({ "payload": { "id": "$row.id", "customer": "$row.customer", "status": "$row.status", "amount": "$row.amount", "at": "$row.created_at" } })).await;
    let log = Log::start(&harness);
    let running = harness.start_with(log.log.clone());
    harness.live().await;
    running.stop().await;
    // 200 transactions of 100 rows, then one of 20,000, waiting in the slot.
    let (small, large) = (20_000, 20_000);
    harness
        .sql(&format!(
            "do $$ begin for t in 0..{} loop
                insert into orders select t * 100 + n, n, 'open', n * 1.25, repeat('x', 40) from generate_series(1, 100) n;
                commit;
            end loop; end $$",
            small / 100 - 1
        ))
        .await;
    let rest = format!(
        "insert into orders select n, n, 'open', 1.5, '' from generate_series({}, {}) n",
        small + 1,
        small + large
    );
    harness.sql(&rest).await;
    let count = i64::from(small + large);
    let begun = Instant::now();
    let running = harness.start_with(log.log.clone());
    harness.until("all of it", || async { appended(&harness).await >= count }).await;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{count} rows in {seconds:.2} s, {:.0} rows/s, connecting included", count as f64 / seconds);
    in_order(&harness, count).await;
    running.stop().await;
    log.stop().await;
    harness.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_lose_and_double_nothing() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let log = Log::start(&harness);
    let mut running = harness.start_with(log.log.clone());
    harness.live().await;
    for round in 0..4 {
        let from = round * 3_000;
        harness
            .sql(&format!(
                "do $$ begin for t in 0..29 loop
                    insert into orders (id, status) select {from} + t * 100 + n, 'x' from generate_series(1, 100) n;
                    commit;
                end loop; end $$"
            ))
            .await;
        if round % 2 == 0 {
            running.kill().await;
            running = harness.start_with(log.log.clone());
        } else {
            harness.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null and database = current_database()").await;
        }
    }
    harness.until("all of it", || async { appended(&harness).await >= 12_000 }).await;
    in_order(&harness, 12_000).await;
    running.stop().await;
    log.stop().await;
    harness.drop_slot().await;
}
