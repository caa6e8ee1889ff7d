//! The port of presence: who is where and which connections there are, over all instances, and who has gone with an
//! instance that died.
//!
//! Owns: the shape of places and members, what a lease of an instance means, and the contract suite (module
//! `contract`, feature `contract`) that every implementation passes. Knows no database and no broker, and tells
//! nobody of changes: whoever makes one announces it.

mod place;

#[cfg(feature = "contract")]
pub mod contract;

pub use place::{Kind, Place};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_types::{Problem, Scope};
use std::time::Duration;
use thiserror::Error;

/// How long an instance's members stay without its renewing.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often an instance renews, and looks for those that died.
pub const RENEW: Duration = Duration::from_secs(3);
/// The most members that are listed at once.
pub const MEMBERS: usize = 1_000;

/// Somebody who is in a place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// As whom: the token's subject, or else the socket's id.
    pub client_id: String,
    /// The connection.
    pub socket_id: String,
    /// What it says of itself; `null` where it says nothing.
    pub data: Value,
    /// Since when, in Unix milliseconds.
    pub joined_at: i64,
}

/// What became of an entry.
#[derive(Clone, Debug)]
pub struct Entered {
    /// Whether the connection was not there before.
    pub is_new: bool,
    /// The member as it stands.
    pub member: Member,
    /// Entries of the same client by other instances: (instance, member). Not told of channels, whose members are not
    /// announced.
    pub elsewhere: Vec<(String, Member)>,
}

/// Somebody who went with the instance that held it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    /// Whose place.
    pub scope: Scope,
    /// Where it was.
    pub place: Place,
    /// Who it was.
    pub member: Member,
}

/// A connection that an instance holds, written down so that others can say what went with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is removed by: no other record of the instance has it.
    pub key: String,
    /// What whoever finds it has to know, as JSON text.
    pub text: String,
}

/// What a renewed lease was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It held, and so do the members.
    Held,
    /// It held, and the store may have lost members, as a crash of a server can do: the instance enters them again.
    Emptied,
    /// It had run out, or there was none. Others may have removed what the instance held, and said so: it enters its
    /// members again, and writes down its connections.
    Lapsed,
}

/// Where presence is kept does not answer.
#[derive(Clone, Debug, Error)]
#[error("presence cannot be had now: {0}")]
pub struct PresenceError(pub String);

impl From<PresenceError> for Problem {
    fn from(_: PresenceError) -> Self {
        Self::unavailable("presence does not answer; try again")
    }
}

/// An answer of the store.
pub type Answer<T> = BoxFuture<'static, Result<T, PresenceError>>;

/// Where members are kept.
///
/// An instance holds one lease for all its members and connections. Where it does not renew in time, any other instance
/// sees to what it left: reads it ([`Presence::left_by`], [`Presence::records`]), makes sure that nothing of it is
/// forgotten, and only then removes it.
pub trait Presence: Send + Sync {
    /// Puts `member` into the place, held by `instance`; a connection that is there already keeps `joined_at` and
    /// gets the new data.
    fn enter(&self, scope: &Scope, place: &Place, instance: &str, member: Member) -> Answer<Entered>;

    /// Puts members that `instance` holds into their places again, as [`Presence::enter`] does, a few hundred at once;
    /// answers for each, in their order, whether it was missing. No member stands twice in the list.
    fn enter_again(&self, instance: &str, members: Vec<(Scope, Place, Member)>) -> Answer<Vec<bool>>;

    /// Takes a connection out; answers who it was, if it was there.
    fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Answer<Option<Member>>;

    /// The members behind `after` (a socket's id), by socket, at most `limit`.
    fn members(&self, scope: &Scope, place: &Place, after: Option<&str>, limit: usize)
    -> Answer<Vec<Member>>;

    /// The places of a kind that have members, behind `after`, by name, at most `limit`, with their numbers.
    fn places(
        &self,
        scope: &Scope,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<(String, u64)>>;

    /// Holds the instance's members for another [`LEASE`], and answers what became of them since the last time. Where
    /// there is no answer, that may have been the one which told.
    fn renew(&self, instance: &str) -> Answer<Renewal>;

    /// The instance stops: its lease ends now.
    fn retire(&self, instance: &str) -> Answer<()>;

    /// The instances whose leases have run out, and that may have left something.
    fn dead(&self) -> Answer<Vec<String>>;

    /// The members that an instance holds.
    fn left_by(&self, instance: &str) -> Answer<Vec<Gone>>;

    /// Removes the members of an instance whose lease has run out, and forgets the instance once it has left nothing.
    /// Each member is answered to exactly one of those who reap. Nothing where the instance lives.
    fn reap(&self, instance: &str) -> Answer<Vec<Gone>>;

    /// The instances whose leases hold.
    fn instances(&self) -> Answer<Vec<String>>;

    /// Writes down connections that the instance holds.
    fn hold(&self, instance: &str, records: Vec<Record>) -> Answer<()>;

    /// Removes records of the instance by their keys.
    fn release(&self, instance: &str, keys: Vec<String>) -> Answer<()>;

    /// Some of an instance's records, at most `limit`; fewer only where there are no more.
    fn records(&self, instance: &str, limit: usize) -> Answer<Vec<Record>>;
}
