//! What keeps an outbox from being read, in words for whoever can mend it.

use database::DatabaseError;
use outbound::OutboundError;
use std::{error::Error as _, time::Duration};
use thiserror::Error;

/// Why an outbox could not be read or marked.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// The database that holds the outbox refused or failed.
    #[error("the outbox's database: {0}")]
    Source(#[from] sqlx::Error),
    /// The platform's own database refused or failed.
    #[error("the platform's database: {0}")]
    Platform(#[from] DatabaseError),
    /// No answer came.
    #[error("no answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The guard does not let it be reached, or nobody answers there.
    #[error("{0}")]
    Outbound(#[from] OutboundError),
    /// The URL is none.
    #[error("the URL cannot be used: {0}")]
    Url(String),
}

/// What is wrong with an outbox, and the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A stable word.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub cure: &'static str,
}

impl Trouble {
    /// Another scope reads this database's outbox.
    pub fn owned() -> Self {
        Self {
            code: "OWNED_BY_ANOTHER",
            message: "the outbox of this database is read for another application or environment".to_owned(),
            cure: "remove config.outbox there, or here",
        }
    }

    /// It is the platform's own, whose rows belong to all scopes.
    pub fn own() -> Self {
        Self {
            code: "OWN_DATABASE",
            message: "this is the platform's own database, whose event_outbox is always read".to_owned(),
            cure: "name the application's own database in config.outbox",
        }
    }

    /// Whether rows may wait that nobody reads.
    pub(crate) fn leaves_rows(&self) -> bool {
        !matches!(self.code, "OWNED_BY_ANOTHER" | "OWN_DATABASE")
    }

    /// The stored URL cannot be opened.
    pub fn sealed() -> Self {
        Self {
            code: "CANNOT_BE_OPENED",
            message: "the stored URL was sealed with another secret key".to_owned(),
            cure: "set config.outbox again, or start with the former REALTIME_SECRET_KEY",
        }
    }
}

impl From<&OutboxError> for Trouble {
    fn from(error: &OutboxError) -> Self {
        let (code, cure) = match error {
            OutboxError::Source(sqlx::Error::Database(cause)) => match cause.code().as_deref() {
                Some("42P01" | "42703") => {
                    ("NO_TABLE", "run `realtime outbox install --url …` in this database")
                }
                Some("42501") => {
                    ("NO_PRIVILEGE", "grant select, update and delete on event_outbox to this user")
                }
                Some("28P01" | "28000" | "3D000") => {
                    ("REFUSED", "mend user, password or database in config.outbox")
                }
                _ => ("FAILED", "see what the database's log says"),
            },
            OutboxError::Outbound(OutboundError::Refused(_)) => (
                "ADDRESS_REFUSED",
                "name a host on the internet, or have a super_admin set config.webhookNetworkPolicy",
            ),
            OutboxError::Outbound(OutboundError::Tls(_)) => {
                ("TLS", "mend the server's certificate, or sslmode and sslrootcert in config.outbox")
            }
            OutboxError::Outbound(_) => {
                ("UNREACHABLE", "see that host and port are right, and that connections from here are let in")
            }
            OutboxError::Url(_) => ("BAD_URL", "set config.outbox again"),
            OutboxError::Platform(_) => ("PLATFORM", "see that the platform's database answers"),
            OutboxError::Source(_) | OutboxError::TooSlow(_) => {
                ("UNREACHABLE", "see that host and port are right, and that connections from here are let in")
            }
        };
        Self { code, message: said(error), cure }
    }
}

/// The failure in the database's own words, which name tables and users but hold no row.
fn said(error: &OutboxError) -> String {
    match error {
        OutboxError::Source(sqlx::Error::Database(cause)) => cause.message().to_owned(),
        other => other.source().map_or_else(|| other.to_string(), ToString::to_string),
    }
}
