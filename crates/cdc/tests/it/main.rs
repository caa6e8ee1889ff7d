//! Change data capture on a real Postgres: one database for the platform, one as target.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backfill;
mod failures;
mod flow;
mod harness;
mod preflight;
mod recording;
mod servers;
mod set_back;
mod slots;
mod spill;
mod tables;
mod throughput;
mod types;
