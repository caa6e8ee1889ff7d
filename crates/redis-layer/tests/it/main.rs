//! The event log's contract on Redis, and what only Redis can get wrong.

mod bounds;
mod cluster;
mod contract;
mod documents;
mod harness;
mod leases;
mod sentinel;
mod trouble;
