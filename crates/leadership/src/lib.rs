//! The port of leadership: one process at a time leads what only one may do, and each leader has a term.
//!
//! Owns what holding a lease means. Knows nothing of where leases are kept, and nothing of what is led.
//!
//! A lease is a promise with an end: a holder that cannot renew it in time has lost it, whether or not it notices.
//! What a leader does must therefore be fenced by its term where it takes effect.

use futures::future::BoxFuture;
use std::time::Duration;
use thiserror::Error;

/// How long a leader leads without renewing.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a leader renews, and others look whether there is one.
pub const RENEW: Duration = Duration::from_secs(1);

/// Where leases are kept does not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("leases cannot be had now: {0}")]
pub struct LeadershipError(pub String);

/// Where leases are kept.
///
/// Names are free text of at most 200 bytes; the caller begins them with what kind of thing is led
/// (`cdc/…`). Terms of one name only grow, whoever holds it.
pub trait Leader: Send + Sync {
    /// Takes the lease `name` for [`LEASE`] where nobody holds it, and answers its new term. `holder` is shown to
    /// people.
    fn acquire(&self, name: &str, holder: &str) -> BoxFuture<'static, Result<Option<u64>, LeadershipError>>;

    /// Holds the lease for another [`LEASE`]; `false` where somebody else has taken it since, or it was given back.
    fn renew(&self, name: &str, term: u64) -> BoxFuture<'static, Result<bool, LeadershipError>>;

    /// Gives the lease back, so that another can take it at once.
    fn release(&self, name: &str, term: u64) -> BoxFuture<'static, Result<(), LeadershipError>>;

    /// Resolves when the lease may have become free, and after [`RENEW`] in any case.
    fn freed(&self, name: &str) -> BoxFuture<'static, ()>;
}
