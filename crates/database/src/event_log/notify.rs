//! Tells other processes that a partition has grown.
//!
//! NOTIFY inside concurrent transactions serializes them, so that it is sent after the commit, on its own, for all
//! partitions that grew within a millisecond. A lost notice costs latency only: readers also look by themselves.

use sqlx::PgPool;
use std::{collections::BTreeMap, future::Future, time::Duration};
use tokio::sync::mpsc;

/// How long notices are gathered.
const COALESCE: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is said instead of a sequence where topics got new epochs.
pub const RENEWED: &str = "renewed";

/// The channel of a partition.
pub fn channel(partition: u16) -> String {
    format!("realtime_log_{partition:02}")
}

/// The partition of a channel.
pub fn partition(channel: &str) -> Option<u16> {
    channel.strip_prefix("realtime_log_")?.parse().ok()
}

/// A sender of (partition, last sequence) and the task that announces what it is sent. It ends with the sender.
pub fn start(pool: PgPool) -> (mpsc::Sender<(u16, u64)>, impl Future<Output = ()> + Send) {
    let (sender, mut receiver) = mpsc::channel::<(u16, u64)>(1024);
    let task = async move {
        while let Some((partition, sequence)) = receiver.recv().await {
            let mut grown = BTreeMap::from([(partition, sequence)]);
            tokio::time::sleep(COALESCE).await;
            while let Ok((partition, sequence)) = receiver.try_recv() {
                grown.insert(partition, sequence);
            }
            announce(&pool, &grown).await;
        }
    };
    (sender, task)
}

async fn announce(pool: &PgPool, grown: &BTreeMap<u16, u64>) {
    let channels: Vec<String> = grown.keys().map(|&p| channel(p)).collect();
    let sequences: Vec<String> = grown.values().map(u64::to_string).collect();
    let query = sqlx::query("select pg_notify(c, s) from unnest($1::text[], $2::text[]) as n(c, s)")
        .bind(channels)
        .bind(sequences)
        .execute(pool);
    if let Err(error) = super::within(TIMEOUT, query).await {
        tracing::debug!(%error, "could not announce appended events; readers will look by themselves");
    }
}
