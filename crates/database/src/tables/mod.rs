//! One file for each table (or small group of tables): plain functions over a Postgres executor.

pub mod api_keys;
pub mod applications;
pub mod auth_snapshot;
pub mod cdc;
pub mod cdc_backfills;
pub mod cdc_events;
pub mod cdc_slots;
pub mod cdc_spill;
pub mod dead_letters;
pub mod idempotency;
pub mod installation;
pub mod leases;
pub mod login_failures;
pub mod mapping_versions;
pub mod mappings;
pub mod outbox;
pub mod revocations;
pub mod services;
pub mod sessions;
pub mod signing_keys;
pub mod topics;
pub mod users;
