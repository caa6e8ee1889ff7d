//! One target, and what becomes of its leader.

use crate::{
    bench::{Bench, Store},
    harness::{Platform, until},
};
use shared_types::Scope;
use std::time::Instant;

/// Leases and events are in the platform's database.
struct InPostgres;

impl Store for InPostgres {
    async fn keys(&self, platform: &Platform, scope: &Scope) -> Vec<i64> {
        platform.keys(scope).await
    }

    async fn candidates(&self, platform: &Platform) -> i64 {
        platform.candidates().await
    }
}

async fn bench() -> Bench<InPostgres> {
    Bench::new(Platform::new().await, InPostgres).await
}

impl Bench<InPostgres> {
    /// A value of the target's lease, as text.
    async fn lease(&self, value: &str) -> String {
        let sql = format!("select coalesce(({value})::text, '') from leases where name like 'cdc/%'");
        self.platform.ask(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_within_five_seconds() {
    bench().await.replaces_dead_leaders().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() {
    let mut bench = bench().await;
    let mut leading = bench.leading().await;
    for _ in 0..3 {
        let waiting = bench.waiting().await;
        let (term, runs_out) = (bench.lease("term").await, bench.lease("expires_at").await);
        let begun = Instant::now();
        leading.signal("-TERM");
        bench.insert().await;
        until("another term", async || bench.lease("term").await != term).await;
        let in_time = bench.lease(&format!("clock_timestamp() < '{runs_out}'")).await;
        let handed_over = begun.elapsed();
        assert_eq!(in_time, "true", "it waited until the lease ran out: {handed_over:?}");
        bench.led_by(&waiting).await;
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
    bench.finish([]).await;
}
