//! Who somebody is and what they may do: passwords, sessions, API keys, signing keys, tokens, roles, revocation.
//!
//! Owns the rules of authentication and of granting. Knows no HTTP: credentials enter as text and leave as an
//! [`Identity`] or a [`Person`]. Keys and revocations are in memory on every instance ([`Authenticator`]),
//! and as old as its last look at the database, at most ten seconds.

mod api_keys;
mod authenticator;
mod grants;
mod identity;
mod issue;
mod keyring;
mod passwords;
mod people;
mod roles;
mod secrets;
mod signing_keys;
mod token;

pub use api_keys::{MadeApiKey, NewApiKey};
pub use authenticator::{AuthSettings, Authenticator};
pub use grants::Permissions;
pub use identity::{Identity, Via};
pub use issue::{DEFAULT_TTL_SECONDS, Issued, Issuer, MAX_TTL_SECONDS, TokenRequest};
pub use people::{Attempt, NewPerson, Person, Refusal, SignedIn};
pub use roles::Role;
pub use secrets::csrf_token;
pub use signing_keys::MadeSigningKey;
pub use token::Claims;
