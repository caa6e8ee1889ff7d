//! The port of leadership: one process at a time leads what only one may do, and each leader has a term.
//!
//! Owns what holding a lease means. Knows nothing of where leases are kept, and nothing of what is led.
//!
//! A lease keeps two from trying; what keeps a second one from succeeding is the term. What a leader does is therefore
//! fenced by its term where it takes effect, and then this rule is safe: **a leader leads until it learns that the lease
//! is no longer its own.** Where leases do not answer it goes on, though its lease may have run out: nobody is given it
//! unless they answer again, and whoever is has a higher term. They come back with the lease, without it, or with
//! another's, and the next renewal says which. What no term fences must end [`LEASE`] after the last renewal that
//! succeeded was asked for.

#[cfg(feature = "contract")]
pub mod contract;

use futures::future::BoxFuture;
use std::time::Duration;
use thiserror::Error;

/// How long a lease is kept for a leader that does not renew it.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a leader renews, and others look whether there is one.
pub const RENEW: Duration = Duration::from_secs(1);

/// Where leases are kept does not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("leases cannot be had now: {0}")]
pub struct LeadershipError(pub String);

/// The answer to a question about leases, within seconds, if only with an error.
pub type Answer<T> = BoxFuture<'static, Result<T, LeadershipError>>;

/// Where leases are kept.
///
/// Names are free text of at most 200 bytes; the caller begins them with what kind of thing is led
/// (`cdc/…`). Terms of one name only grow, whoever holds it.
pub trait Leader: Send + Sync {
    /// Takes the lease `name` for [`LEASE`] where nobody holds it, and answers its new term. `holder` is shown to
    /// people. After an error nobody leads in a term that this has counted.
    fn acquire(&self, name: &str, holder: &str) -> Answer<Option<u64>>;

    /// Holds the lease for another [`LEASE`]. One that ran out or was lost, and that nobody has taken, is taken again in
    /// its own term. `false` where somebody else has taken it, or has been given a later term, or it was given back:
    /// then it is over for good. An error says nothing of whose it is.
    fn renew(&self, name: &str, term: u64) -> Answer<bool>;

    /// Gives the lease back, so that another can take it at once, and wakes those who wait for it.
    fn release(&self, name: &str, term: u64) -> Answer<()>;

    /// Resolves when the lease may have become free, and after [`RENEW`] at the latest. Nothing is missed that happens
    /// after the call, whenever the future is polled.
    fn freed(&self, name: &str) -> BoxFuture<'static, ()>;
}

/// Where terms are counted of leases that are kept elsewhere: a place that does not forget.
pub trait Terms: Send + Sync {
    /// Counts a new term of `name`, higher than all before, for `holder`; `None` where the lease itself is held here, by
    /// somebody who does not know of the other place.
    fn raise(&self, name: &str, holder: &str) -> Answer<Option<u64>>;

    /// For whom `term` was counted, as long as it is the last and not over.
    fn holder(&self, name: &str, term: u64) -> Answer<Option<String>>;

    /// Notes that `term` is over.
    fn end(&self, name: &str, term: u64) -> Answer<()>;
}
