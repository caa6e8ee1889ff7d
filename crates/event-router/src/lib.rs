//! From draft to log, and from log to the connections that want it.
//!
//! Owns: normalization, the gate before the append, the subscription index, projection by return mode, encoding
//! once for each protocol, and the bounded outbox of each connection. Knows neither Postgres nor Redis nor a
//! transport: events enter by [`EventRouter::route`] and by the log's live reader, and leave by [`Outbox`].

mod route;

pub use route::{EventRouter, RouteReport, Routed};
