//! The outbox on real databases, with any number of workers, some of which die.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod documentation;
mod failing;
mod flow;
mod harness;
mod targets;
