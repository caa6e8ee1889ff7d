//! The backend on a real Postgres, called in process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod account;
mod applications;
mod capture;
mod conventions;
mod documents;
mod events;
mod input;
mod mappings;
mod outbox;
mod restoring;
mod server;
mod services;
mod sync;
mod tenants;
mod tokens;
mod topics;
mod walk;
