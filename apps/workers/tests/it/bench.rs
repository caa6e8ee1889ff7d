//! One target, its rows, and the processes that read it, wherever leases and events are.

use crate::harness::{Platform, Target, Worker, until};
use shared_types::{Environment, Scope};
use std::time::{Duration, Instant};

/// Where leases and events are.
pub trait Store {
    /// The keys of the rows that have become events of `scope`, in order.
    async fn keys(&self, platform: &Platform, scope: &Scope) -> Vec<i64>;

    /// How many processes are there to lead.
    async fn candidates(&self, platform: &Platform) -> i64;
}

/// A target of one platform.
pub struct Bench<S> {
    pub platform: Platform,
    pub target: Target,
    /// How many rows were inserted; their keys begin with 1.
    pub inserted: i64,
    pub store: S,
}

impl<S: Store> Bench<S> {
    pub async fn new(platform: Platform, store: S) -> Self {
        let target = platform.target(Environment::Development).await;
        Self { platform, target, inserted: 0, store }
    }

    pub async fn insert(&mut self) {
        self.inserted += 1;
        self.target.insert(self.inserted).await;
    }

    /// The keys of the rows that have become events, in order.
    pub async fn keys(&self) -> Vec<i64> {
        self.store.keys(&self.platform, &self.target.scope).await
    }

    /// Waits until every row is in the log, each once and in order.
    pub async fn all_arrive(&self) {
        until("all rows", async || self.keys().await.len() as i64 >= self.inserted).await;
        assert_eq!(self.keys().await, (1..=self.inserted).collect::<Vec<_>>());
    }

    /// Waits until so many processes are there to lead.
    pub async fn candidates(&self, count: i64) {
        until("that many are there to lead", async || self.store.candidates(&self.platform).await == count)
            .await;
    }

    /// A process that leads.
    pub async fn leading(&self) -> Worker {
        let worker = Worker::start(&self.platform);
        self.led_by(&worker).await;
        worker
    }

    /// One more process, which waits to lead; what was inserted until then has arrived.
    pub async fn waiting(&mut self) -> Worker {
        let worker = Worker::start(&self.platform);
        // It has to be up before a leader goes, or its start is measured.
        self.candidates(2).await;
        self.insert().await;
        self.all_arrive().await;
        worker
    }

    /// Waits until `worker` reads the target.
    pub async fn led_by(&self, worker: &Worker) {
        self.platform.led_by(worker, &[&self.target]).await;
    }

    /// Stops the last processes in order, and lets go of the target.
    pub async fn finish(self, workers: impl IntoIterator<Item = Worker>) {
        for mut worker in workers {
            worker.signal("-TERM");
            assert!(worker.wait().success(), "it ends in order");
        }
        self.target.drop_slot().await;
    }

    /// Kills one leader after another, and sees each replaced within five seconds.
    pub async fn replaces_dead_leaders(mut self) {
        let mut leading = self.leading().await;
        for _ in 0..2 {
            let waiting = self.waiting().await;
            let begun = Instant::now();
            leading.signal("-KILL");
            self.insert().await;
            self.led_by(&waiting).await;
            self.all_arrive().await;
            let took = begun.elapsed();
            eprintln!("replaced after {took:?}");
            assert!(took < Duration::from_secs(5), "{took:?}");
            leading = waiting;
        }
        self.finish([leading]).await;
    }
}
