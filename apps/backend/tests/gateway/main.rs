//! The gateways on a real Postgres: what is true of every transport is tested by one suite over all of them, what
//! only one can get wrong beside it.
//!
//! Every test has a worker beside its own thread: dropping a database waits for the server, which waits for whoever
//! is connecting at that moment, which must go on meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bad_input;
mod channels;
mod clients;
mod harness;
mod lifecycle;
mod patience;
mod polling;
mod rates;
mod socketio;
mod sse;
mod suite;
mod token;
mod traffic;
mod trouble;
mod websocket;
