//! Workers as processes: one leads, another takes over.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench;
mod handover;
mod harness;
mod redis;
mod targets;
