//! Why a statement did not do what it should.

use shared_types::{ErrorKind, Problem};
use thiserror::Error;

/// Why the database refused or failed.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// It does not answer, or has no connection free in time.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// A unique, foreign or check constraint refused the row.
    #[error("constraint {constraint} refused the row")]
    Constraint {
        /// The constraint's name.
        constraint: String,
    },
    /// A sealed value could not be opened: another secret key, or a value from elsewhere.
    #[error("a sealed value could not be opened: {0}")]
    Unsealable(&'static str),
    /// Anything else, which is ours to mend.
    #[error("the database failed: {0}")]
    Failed(#[source] sqlx::Error),
    /// A migration failed or does not fit what is applied.
    #[error("migration failed: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A file could not be written.
    #[error("file: {0}")]
    File(#[from] std::io::Error),
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
}

impl DatabaseError {
    /// Whether the constraint `name` refused the row.
    pub fn violates(&self, name: &str) -> bool {
        matches!(self, Self::Constraint { constraint } if constraint == name)
    }
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::Unavailable(error)
            }
            E::Database(cause) => match (cause.constraint(), cause.code().as_deref()) {
                (Some(constraint), _) => Self::Constraint { constraint: constraint.to_owned() },
                // Shutdown and start-up of the server, too many connections, a statement over its time.
                (None, Some("57P01" | "57P02" | "57P03" | "53300" | "57014")) => Self::Unavailable(error),
                _ => Self::Failed(error),
            },
            _ => Self::Failed(error),
        }
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unavailable(_) => Problem::unavailable("the database does not answer; try again"),
            DatabaseError::Constraint { .. } => {
                Problem::new(ErrorKind::Conflict, "CONFLICT", "contradicts what is stored")
            }
            other => {
                tracing::error!(error = %other, "database statement failed");
                Problem::internal()
            }
        }
    }
}
