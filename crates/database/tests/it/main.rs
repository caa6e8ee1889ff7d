//! The database's parts on a real Postgres.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod leader;
mod migrations;
mod presence;
