//! What tests share: a fresh, migrated database each, on one private Postgres.
//!
//! Owns test databases and their template. Knows nothing of what is tested. `REALTIME_TEST_DATABASE_URL` names a
//! server to use (with a role that may create databases) instead of a private one.

mod database;

pub use database::{TestDatabase, database, empty_database};
