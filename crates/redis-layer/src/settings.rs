//! What the layer is told: where the server is, and how much it keeps.

use std::time::Duration;

/// How much of one topic's history is kept at most, whatever its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimit {
    /// Events.
    pub events: u64,
    /// Bytes in the server's memory.
    pub bytes: u64,
}

/// How the layer reaches Redis and how much it keeps there.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://…` or `rediss://…`; other nodes of a cluster as `?node=host:port`. `redis-sentinel://…` names Sentinels,
    /// and by `?sentinelServiceName=…` the server that they watch.
    pub url: String,
    /// How long a topic's history is kept.
    pub history: Duration,
    /// How much of it at most.
    pub history_limit: HistoryLimit,
    /// How many bytes side-effect readers may be behind before appends are refused.
    pub backlog_bytes: u64,
    /// How long a publisher's id is recognized.
    pub ids: Duration,
}

impl RedisSettings {
    /// The defaults with a server's URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            history: Duration::from_secs(15 * 60),
            history_limit: HistoryLimit { events: 100_000, bytes: 64 << 20 },
            backlog_bytes: 1 << 30,
            ids: Duration::from_secs(24 * 3600),
        }
    }
}
