//! Connections to what tenants name: databases, webhooks, key sets.
//!
//! Owns which addresses may be reached ([`address`]), the look-up of names ([`Guard`]) and a way for PostgreSQL clients
//! that resolve names themselves ([`postgres`]). Knows no tenant: which [`Policy`] holds is told by whoever asks.
//!
//! An address is checked behind the look-up, and exactly the checked address is connected to, so that a name that
//! leads elsewhere a moment later gains nothing. Of a name that leads to several addresses all have to pass: one that
//! also leads inside is taken for a mistake or an attack, not for a choice.

pub mod address;
mod guard;
pub mod postgres;

pub use address::Refused;
pub use guard::{Guard, OutboundError, Policy, literal};
