//! Several targets and two processes.

use crate::harness::{Platform, Target, Worker, until};
use shared_types::Environment;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Rows that are written one after the other until it is told to stop.
struct Writer {
    /// The last that was committed.
    last: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    first: i64,
}

impl Writer {
    fn start(target: &Target, first: i64) -> Self {
        let (last, stop) = (Arc::new(AtomicI64::new(first - 1)), Arc::new(AtomicBool::new(false)));
        let (pool, told, committed) = (target.database.pool.clone(), stop.clone(), last.clone());
        let task = tokio::spawn(async move {
            let mut id = first;
            while !told.load(Ordering::Relaxed) {
                sqlx::query("insert into orders values ($1)").bind(id).execute(&pool).await.unwrap();
                committed.store(id, Ordering::Relaxed);
                id += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { last, stop, task, first }
    }

    /// The keys of all rows.
    async fn stop(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        (self.first..=self.last.load(Ordering::Relaxed)).collect()
    }
}

/// Each target is read once, by who holds its lease.
async fn one_reader_each(platform: &Platform, targets: &[&Target], leader: &Worker) {
    for target in targets {
        assert_eq!(target.slots().await, (1, 1), "one slot, and one who reads it");
    }
    let sql = "select array_agg(holder) from leases where name like 'cdc/%' and holder is not null";
    let holders: Vec<String> = platform.ask(sql).await;
    assert_eq!(holders.len(), targets.len(), "{holders:?}");
    assert!(holders.iter().all(|holder| leader.leads(holder)), "{holders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_of_several_targets_is_replaced_at_all_of_them() {
    let platform = Platform::new().await;
    let here = platform.target(Environment::Development).await;
    let there = platform.target(Environment::Staging).await;
    let targets = [&here, &there];
    let mut leading = Worker::start(&platform);
    platform.led_by(&leading, &targets).await;
    // The same table, topic and payload in both: only the keys tell them apart.
    let writers = [Writer::start(&here, 1), Writer::start(&there, 1_000_001)];
    for _ in 0..2 {
        let waiting = Worker::start(&platform);
        until("two are there to lead", async || platform.candidates().await == 2).await;
        one_reader_each(&platform, &targets, &leading).await;
        let begun = Instant::now();
        leading.signal("-KILL");
        let committed = writers.each_ref().map(|writer| writer.last.load(Ordering::Relaxed) + 1);
        platform.led_by(&waiting, &targets).await;
        for (target, key) in targets.iter().zip(committed) {
            until("a row of after the death", async || {
                platform.keys(&target.scope).await.last().is_some_and(|last| *last > key)
            })
            .await;
        }
        let took = begun.elapsed();
        eprintln!("both replaced after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        one_reader_each(&platform, &targets, &waiting).await;
        leading = waiting;
    }
    for (target, writer) in targets.iter().zip(writers) {
        until("some rows", async || writer.last.load(Ordering::Relaxed) > writer.first + 100).await;
        let rows = writer.stop().await;
        until("all rows", async || platform.keys(&target.scope).await.len() >= rows.len()).await;
        assert_eq!(platform.keys(&target.scope).await, rows, "its own rows, each once and in order");
    }
    leading.signal("-TERM");
    assert!(leading.wait().success());
    for target in targets {
        target.drop_slot().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_start_at_once_read_each_target_once() {
    let platform = Platform::new().await;
    let here = platform.target(Environment::Development).await;
    let there = platform.target(Environment::Staging).await;
    let mut workers = [Worker::start(&platform), Worker::start(&platform)];
    for (target, first) in [(&here, 1), (&there, 1_000_001)] {
        until("somebody reads", async || platform.leader(&target.scope).await.is_some()).await;
        for id in first..first + 50 {
            target.insert(id).await;
        }
    }
    for (target, first) in [(&here, 1), (&there, 1_000_001)] {
        until("all rows", async || platform.keys(&target.scope).await.len() >= 50).await;
        assert_eq!(platform.keys(&target.scope).await, (first..first + 50).collect::<Vec<_>>());
        assert_eq!(target.slots().await, (1, 1));
        let leader = platform.leader(&target.scope).await.unwrap();
        assert_eq!(workers.iter().filter(|worker| worker.leads(&leader)).count(), 1, "{leader}");
    }
    until("two are there to lead", async || platform.candidates().await == 2).await;
    for worker in &mut workers {
        worker.signal("-TERM");
    }
    for worker in &mut workers {
        assert!(worker.wait().success());
    }
    for target in [&here, &there] {
        target.drop_slot().await;
    }
}
