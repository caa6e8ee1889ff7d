//! Counters by the minute that all instances share.
//!
//! A key is counted in one number a minute, which expires. All that an instance has to add goes in one pipeline.

use crate::{
    connection::{Links, linked, on_key},
    error::RedisError,
};
use fred::{clients::Client, interfaces::ClientLike};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a minute's number is kept: the minute, and the one in which it still counts.
const KEPT_SECONDS: &str = "130";

/// What is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Who.
    pub key: String,
    /// In which minute since 1970.
    pub minute: u64,
    /// How much.
    pub add: u64,
}

/// What all instances have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// In the minute.
    pub now: u64,
    /// In the minute before.
    pub before: u64,
}

/// Counters on Redis.
#[derive(Clone)]
pub struct RedisCounters {
    links: Links,
}

fn name(key: &str, minute: u64) -> String {
    format!("realtime:rate:{key}:{minute}")
}

impl RedisCounters {
    /// Counters over the process's connections.
    pub(crate) fn new(links: Links) -> Self {
        Self { links }
    }

    /// Adds all of `counts`; answers their totals in the same order.
    ///
    /// # Errors
    /// `Unavailable`: some may have been added.
    pub async fn add(&self, counts: &[Count]) -> Result<Vec<Total>, RedisError> {
        let link = linked(&self.links, TIMEOUT).await?;
        let all = futures::future::try_join_all(counts.iter().map(|count| add(&link.reads, count)));
        match tokio::time::timeout(TIMEOUT, all).await {
            Ok(totals) => totals,
            Err(_) => Err(RedisError::Unavailable("no answer in time".to_owned())),
        }
    }
}

async fn add(client: &Client, count: &Count) -> Result<Total, RedisError> {
    let (key, last) = (name(&count.key, count.minute), name(&count.key, count.minute.saturating_sub(1)));
    let expiry = vec![key.clone(), KEPT_SECONDS.to_owned()];
    // Three commands without a round trip between them.
    let (now, (), before) = futures::try_join!(
        client.custom::<i64, _>(on_key("INCRBY"), vec![key, count.add.to_string()]),
        async { client.custom::<i64, _>(on_key("EXPIRE"), expiry).await.map(drop) },
        client.custom::<Option<i64>, _>(on_key("GET"), vec![last]),
    )?;
    Ok(Total { now: now.unsigned_abs(), before: before.unwrap_or(0).unsigned_abs() })
}
