//! Why a statement did not do what it should.

use shared_types::{ErrorKind, Problem};
use thiserror::Error;

/// Why the database refused or failed.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// It does not answer, takes no writes, or has no connection free in time.
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

/// Whether a failure of this code is a state of the server, which passes: shutdown and start-up, a statement over its
/// time, a server that takes no writes, connections or disk used up (class 53), files that fail (class 58).
fn passes(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03" | "57014" | "25006")
        || code.starts_with("53")
        || code.starts_with("58")
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
                (None, Some(code)) if passes(code) => Self::Unavailable(error),
                _ => Self::Failed(error),
            },
            _ => Self::Failed(error),
        }
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unavailable(_) => {
                Problem::unavailable("the database does not answer, or takes nothing; try again")
            }
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

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn states_of_the_server_pass_and_faults_of_a_statement_do_not() {
        assert!(["57P03", "25006", "53100", "53300", "58030"].into_iter().all(passes));
        assert!(!["42P01", "22001", "25001", "XX000", ""].into_iter().any(passes));
    }
}
