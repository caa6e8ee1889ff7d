//! The backend: REST, the gateways and the served pages.
//!
//! The only crate that knows HTTP, WebSocket and Socket.IO. Requests enter by [`http`] and [`gateway`]; events leave
//! through the gateways.

pub mod gateway;
pub mod http;
pub mod pages;
pub mod rates;
mod server;
pub mod state;

pub use server::Server;
