//! What tests share: a fresh, migrated database each, on one private Postgres, and Redis servers of their own.
//!
//! Owns test databases and their template, and Redis processes. Knows nothing of what is tested. `REALTIME_TEST_DATABASE_URL` names a
//! server to use (with a role that may create databases) instead of a private one.

mod database;
mod redis;

pub use database::{TestDatabase, database, empty_database};
pub use redis::{LocalRedis, LocalRedisCluster, LocalSentinel, Persistence};
