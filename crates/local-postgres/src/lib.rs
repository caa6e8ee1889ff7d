//! A private Postgres server, for `realtime dev` and for tests.
//!
//! Owns finding the server's programs, the data directory and the server process. It must not know what
//! is stored in the databases. It runs a server that belongs to one process ([`LocalPostgres`]: data
//! survives, the server does not outlive its owner) or to all test programs of a run
//! ([`SharedPostgres`]: data is thrown away, the server ends after its last user).
//!
//! Servers listen on 127.0.0.1 only, with a password of their own, `wal_level=logical` and UTC.

mod binaries;
mod cluster;
mod control;
mod directory;
mod error;
mod identity;
mod pidfile;
mod process;
mod server;
mod settings;
mod shared;

pub use binaries::{INSTALL_HINT, find as find_binaries};
pub use error::LocalPostgresError;
pub use server::LocalPostgres;
pub use settings::{Durability, Options};
pub use shared::SharedPostgres;
