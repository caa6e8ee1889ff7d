//! One target, and what becomes of its leader.

use crate::harness::{Platform, Target, Worker, until};
use shared_types::Environment;
use std::time::{Duration, Instant};

struct Bench {
    platform: Platform,
    target: Target,
    inserted: i64,
}

impl Bench {
    async fn new() -> Self {
        let platform = Platform::new().await;
        let target = platform.target(Environment::Development).await;
        Self { platform, target, inserted: 0 }
    }

    async fn insert(&mut self) {
        self.inserted += 1;
        self.target.insert(self.inserted).await;
    }

    /// Waits until every row is in the log, each once and in order.
    async fn all_arrive(&self) {
        let scope = &self.target.scope;
        until("all rows", async || self.platform.keys(scope).await.len() as i64 >= self.inserted).await;
        assert_eq!(self.platform.keys(scope).await, (1..=self.inserted).collect::<Vec<_>>());
    }

    /// A value of the target's lease, as text.
    async fn lease(&self, value: &str) -> String {
        let sql = format!("select coalesce(({value})::text, '') from leases where name like 'cdc/%'");
        self.platform.ask(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_within_five_seconds() {
    let mut bench = Bench::new().await;
    let mut leading = Worker::start(&bench.platform);
    bench.platform.led_by(&leading, &[&bench.target]).await;
    for _ in 0..2 {
        let waiting = Worker::start(&bench.platform);
        // It has to be up before the leader dies, or its start is measured.
        bench.platform.candidates(2).await;
        bench.insert().await;
        bench.all_arrive().await;
        let begun = Instant::now();
        leading.signal("-KILL");
        bench.insert().await;
        bench.platform.led_by(&waiting, &[&bench.target]).await;
        bench.all_arrive().await;
        let took = begun.elapsed();
        eprintln!("replaced after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        leading = waiting;
    }
    leading.signal("-TERM");
    assert!(leading.wait().success());
    bench.target.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() {
    let mut bench = Bench::new().await;
    let mut leading = Worker::start(&bench.platform);
    bench.platform.led_by(&leading, &[&bench.target]).await;
    for _ in 0..3 {
        let waiting = Worker::start(&bench.platform);
        bench.platform.candidates(2).await;
        bench.insert().await;
        bench.all_arrive().await;
        let (term, runs_out) = (bench.lease("term").await, bench.lease("expires_at").await);
        let begun = Instant::now();
        leading.signal("-TERM");
        bench.insert().await;
        until("another term", async || bench.lease("term").await != term).await;
        let in_time = bench.lease(&format!("clock_timestamp() < '{runs_out}'")).await;
        let handed_over = begun.elapsed();
        assert_eq!(in_time, "true", "it waited until the lease ran out: {handed_over:?}");
        bench.platform.led_by(&waiting, &[&bench.target]).await;
        bench.all_arrive().await;
        eprintln!("handed over after {handed_over:?}, reading after {:?}", begun.elapsed());
        assert!(leading.wait().success(), "it ends in order");
        bench.insert().await;
        bench.all_arrive().await;
        leading = waiting;
    }
    leading.signal("-TERM");
    assert!(leading.wait().success());
    // Nobody is left: it was given back.
    assert_eq!(bench.lease("holder").await, "");
    bench.target.drop_slot().await;
}
