//! What tests share: a fresh, migrated database each, on one private Postgres, Redis servers of their own, and services
//! that end as processes do.
//!
//! Owns test databases and their template, and Redis processes. Knows nothing of what is tested.
//! `REALTIME_TEST_DATABASE_URL` names a server to use (with a role that may create databases) instead of a private one.

mod database;
mod redis;
mod running;

pub use database::{TestDatabase, database, empty_database};
pub use redis::{LocalRedis, LocalRedisCluster, LocalSentinel, Persistence};
pub use running::{PATIENCE, Running, until};

use shared_types::{AppId, Environment, Scope};

/// The development scope of the application that exists from the first migration on.
pub fn scope() -> Scope {
    Scope::new(AppId::from_stored("app_default"), Environment::Development)
}
