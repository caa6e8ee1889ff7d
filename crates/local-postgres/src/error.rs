//! What can go wrong with a private server.

use std::path::PathBuf;

/// Why a private Postgres server could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum LocalPostgresError {
    /// No server programs were found; the text says how to get them.
    #[error("no PostgreSQL server programs found (looked in {searched}); {}", crate::INSTALL_HINT)]
    BinariesNotFound {
        /// The places that were looked in.
        searched: String,
    },
    /// Another process runs a server in the same directory.
    #[error("{} is in use by another running process", .0.display())]
    InUse(PathBuf),
    /// The server refuses to run as root, and there is nobody else to run it as.
    #[error("running as root, and neither a user `postgres` nor `nobody` exists to run PostgreSQL as")]
    NoUser,
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    InitDb(String),
    /// The server ended while it was starting.
    #[error("PostgreSQL ended while starting; its log ends with:\n{0}")]
    Exited(String),
    /// The server did not accept connections in time.
    #[error("PostgreSQL did not accept connections within {seconds} s; its log ends with:\n{log}")]
    TimedOut {
        /// How long was waited.
        seconds: u64,
        /// The end of the server's log.
        log: String,
    },
    /// A server that an earlier process left behind could not be ended.
    #[error("the PostgreSQL server {0} of an earlier run does not end")]
    Leftover(i32),
    /// The server answered with an error, or not at all.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
    /// A file or process operation failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, as in "create /x".
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Says what was tried when an operation of the system fails.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, LocalPostgresError>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, LocalPostgresError> {
        self.map_err(|source| LocalPostgresError::Io { action: action(), source })
    }
}
