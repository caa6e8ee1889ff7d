//! What keeps a reader from reading, with what helps: a state that is shown, never a crash.

use crate::target::{TargetUrl, quoted};
use outbound::{OutboundError, postgres::Tunnel};
use pg_walstream::ReplicationError;
use std::fmt;

/// Why a target cannot be read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A stable code, listed in `docs/cdc.md`.
    pub code: &'static str,
    /// What is wrong, for a person. Holds no host, user or password.
    pub message: String,
    /// What helps. Where its SQL names the reader's user or the target's database it holds `<user>` or `<database>`,
    /// until it is [told of a target](Trouble::of_target).
    pub cure: String,
}

/// Stands in a cure for the user that reads the target.
pub(crate) const USER: &str = "<user>";
/// Stands in a cure for the target's database.
pub(crate) const DATABASE: &str = "<database>";

/// `cure` with the names of a target's user and database, so that its SQL runs as it stands. Every cure passes here on
/// its way to a person.
pub(crate) fn cure_of_target(cure: &str, url: &TargetUrl) -> String {
    cure.replace(USER, &quoted(url.user())).replace(DATABASE, &quoted(url.database()))
}

impl Trouble {
    /// A trouble of `code`.
    pub fn new(code: &'static str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { code, message: message.into(), cure: cure.into() }
    }

    /// The same as a trouble of the target at `url`, which its cure then names.
    #[must_use]
    pub fn of_target(self, url: &TargetUrl) -> Self {
        Self { cure: cure_of_target(&self.cure, url), ..self }
    }

    /// The target does not answer.
    pub fn unreachable(what: &str) -> Self {
        Self::new(
            "UNREACHABLE",
            format!("the target database does not answer: {what}"),
            "check host, port, firewall and that the server runs; the reader keeps trying",
        )
    }

    /// The platform's own database or event log does not answer.
    pub fn platform(what: impl fmt::Display) -> Self {
        Self::new(
            "PLATFORM",
            format!("the platform cannot take events now: {what}"),
            "check the platform's database; changes wait in the target's log and nothing is lost meanwhile",
        )
    }

    /// Why there is no connection to the target.
    pub fn outbound(error: &OutboundError) -> Self {
        match error {
            OutboundError::Refused(why) => Self::new(
                "ADDRESS_REFUSED",
                format!("the target's host leads to {why}, which this application may not reach"),
                "name a host on the internet, or have a super_admin allow private addresses \
                 (config.webhookNetworkPolicy.<environment>.allowPrivate)",
            ),
            OutboundError::Unresolved => Self::unreachable("its name cannot be resolved"),
            OutboundError::Unreachable(what) => Self::unreachable(what),
            OutboundError::Tls(cause) => Self::tls(cause),
        }
    }

    /// What ended a connection that took the way of `tunnel`: a client sees only that it ended.
    pub fn through(tunnel: Option<&Tunnel>, otherwise: Self) -> Self {
        tunnel.and_then(Tunnel::failure).map_or(otherwise, |error| Self::outbound(&error))
    }

    /// What the target's answer to a statement means.
    pub fn of_sql(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(cause) => {
                Self::of_state(&cause.code().unwrap_or_default(), cause.message())
            }
            sqlx::Error::Tls(cause) => Self::tls(&cause.to_string()),
            // The handshake's failures come as those of reading.
            sqlx::Error::Io(cause) if is_about_certificates(&cause.to_string()) => {
                Self::tls(&cause.to_string())
            }
            // Only looking a name up fails without a kind of its own; the text can name the host.
            sqlx::Error::Io(cause) if cause.to_string().starts_with("failed to lookup address") => {
                Self::unreachable("its name cannot be resolved")
            }
            sqlx::Error::Io(cause) => Self::unreachable(&cause.kind().to_string()),
            sqlx::Error::Configuration(_) => Self::new(
                "TARGET_URL",
                "the target's URL cannot be used",
                "correct it in the application's settings",
            ),
            _ => Self::unreachable("the connection ended"),
        }
    }

    /// No trusted connection; `cause` is the client's text, which can hold names and is not passed on.
    fn tls(cause: &str) -> Self {
        let (what, cure) = if cause.contains("UnknownIssuer") {
            ("nobody who is trusted signed its certificate", "give the server's CA inline as sslrootcert")
        } else if cause.contains("not valid for name") || cause.contains("NotValidForName") {
            (
                "its certificate is for another name",
                "name the host as its certificate does, or use sslmode=verify-ca with its CA as sslrootcert",
            )
        } else if cause.contains("xpired") {
            ("its certificate has expired", "renew the server's certificate")
        } else if is_about_certificates(cause) {
            ("its certificate is not accepted", "give the server's CA inline as sslrootcert")
        } else {
            (
                "it does not speak TLS as asked for",
                "let the server speak TLS (ssl = on), or set another sslmode",
            )
        };
        Self::new("TLS", format!("no trusted connection to the target: {what}"), cure)
    }

    /// What a SQLSTATE of the target means; `message` is the server's.
    pub fn of_state(state: &str, message: &str) -> Self {
        let (code, cure) = match state {
            "28P01" | "28000" if message.contains("no pg_hba.conf entry") => {
                ("PRIVILEGE", "allow this user and the database `replication` from here in pg_hba.conf")
            }
            "28P01" | "28000" => {
                ("AUTHENTICATION", "correct user and password in the application's settings")
            }
            "3D000" => ("DATABASE_MISSING", "correct the database's name in the application's settings"),
            "42501" if message.contains("replication") => (
                "PRIVILEGE",
                "alter role <user> with replication; -- on managed services grant their replication role instead",
            ),
            "42501" => {
                ("PRIVILEGE", "make the user the owner of the table, or a superuser, and see docs/cdc.md")
            }
            "53400" => ("SLOTS_FULL", "raise max_replication_slots, or drop slots that nobody uses"),
            "53300" => ("CONNECTIONS_FULL", "raise max_wal_senders and max_connections"),
            "55000" if message.contains("wal_level") => return Self::wal_level("too low"),
            "55000" if message.contains("max_replication_slots") => {
                ("SLOTS_FULL", "raise max_replication_slots, which is 0; it needs a restart")
            }
            "57P01" | "57P02" | "57P03" => {
                ("UNREACHABLE", "the server restarts or shuts down; the reader keeps trying")
            }
            "25006" => (
                READ_ONLY,
                "let the target take writes: see default_transaction_read_only of server, database and user, and \
                 that it is no standby",
            ),
            "53100" => (DISK_FULL, "make room on the disk of the target's server"),
            "55006" => return Self::slot_in_use(),
            "55P03" => ("LOCKED", "wait for the transactions that hold the table; the reader keeps trying"),
            _ => ("TARGET", "see the message, which is the target database's own"),
        };
        Self::new(code, message, cure)
    }

    /// The target's `wal_level` does not carry row changes.
    pub fn wal_level(found: &str) -> Self {
        Self::new(
            "WAL_LEVEL",
            format!("wal_level is not logical (it is {found})"),
            "alter system set wal_level = 'logical'; and restart the server (managed services: their parameter)",
        )
    }

    /// The URL leads to another database than it did.
    pub fn other_cluster() -> Self {
        Self::new(
            OTHER_CLUSTER,
            "the target's URL leads to another database cluster than before",
            "none: the reader begins anew with that one",
        )
    }

    /// The target holds an earlier state than was read from it; `what` shows it.
    pub fn set_back(what: &str) -> Self {
        Self::new(
            SET_BACK,
            format!("the target was set back to an earlier state of itself: {what}"),
            "none: it is read on from what it holds now, and its topics begin a new epoch; see the gap",
        )
    }

    /// Somebody else reads the slot.
    pub fn slot_in_use() -> Self {
        Self::new(
            "SLOT_IN_USE",
            "the replication slot is read by another process, which may not be ended from here",
            "stop the other reader, or: grant pg_signal_backend to <user>;",
        )
    }

    /// A scope's target was told to stop, and its slot stays.
    pub fn told_to_stop() -> Self {
        Self::stopped("it was told to stop; its slot keeps the target's log meanwhile")
    }

    /// A scope's target was told to stop, and others go on reading the same database.
    pub fn told_to_stop_beside_others() -> Self {
        Self::stopped(
            "it was told to stop; its database is read for another application or environment, so that what changes \
             meanwhile is not kept for this one",
        )
    }

    fn stopped(message: &str) -> Self {
        Self::new("STOPPED", message, "POST /api/database/cdc/start")
    }

    /// Whoever read the target has gone, and nobody has taken over yet.
    pub fn leader_left() -> Self {
        Self::new(
            "LEADER_LEFT",
            "the process that read it has just stopped doing so; its slot keeps the target's log meanwhile",
            "none where another process hosts change data capture, which takes over by itself; else start one",
        )
    }

    /// What the end of a replication connection means.
    pub fn of_stream(error: &ReplicationError) -> Self {
        let text = error.to_string();
        let message = server_message(&text);
        // The SQLSTATE is the same whatever the server's language.
        let state =
            text.split_once("SQLSTATE ").or_else(|| text.split_once('[')).and_then(|(_, rest)| rest.get(..5));
        let state = state.filter(|s| s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()));
        match state {
            // The slot itself is looked for before every start: it is the publication that its past does not know.
            Some("42704") => Self::new(
                PUBLICATION_UNKNOWN,
                message,
                "the slot is older than its publication and is made anew; see the gap",
            ),
            Some("42501") => Self::of_state("42501", &format!("{message} (replication)")),
            Some("55000") => Self::new("SLOT", message, "the reader looks at its slot again"),
            Some(state) => Self::of_state(state, message),
            None if matches!(error, ReplicationError::Authentication(_)) => Self::of_state("28P01", message),
            None if is_about_certificates(&text) => Self::tls(&text),
            None => Self::unreachable("the replication connection ended"),
        }
    }
}

fn is_about_certificates(text: &str) -> bool {
    text.to_ascii_lowercase().contains("certificate")
}

/// The server's own words within the client's.
fn server_message(text: &str) -> &str {
    let start =
        ["ERROR: ", "FATAL: ", "PANIC: "].iter().filter_map(|s| text.rfind(s).map(|at| at + s.len())).max();
    let message = &text[start.unwrap_or(0)..];
    let end = [" (SQLSTATE", "\n"].iter().filter_map(|s| message.find(s)).min();
    message[..end.unwrap_or(message.len())].trim()
}

/// The URL leads to another database than it did.
pub const OTHER_CLUSTER: &str = "OTHER_CLUSTER";

/// The target holds an earlier state than was read from it.
pub const SET_BACK: &str = "SET_BACK";

/// The target takes no writes.
pub const READ_ONLY: &str = "READ_ONLY";

/// The target's disk is full.
pub const DISK_FULL: &str = "DISK_FULL";

/// The slot's past cannot be decoded, because its publication was made later.
pub const PUBLICATION_UNKNOWN: &str = "PUBLICATION_UNKNOWN";

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::of_sql(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_names_user_and_database_of_its_target() {
        let url: TargetUrl = "postgres://the%22reader@db.internal/shop".parse().expect("a URL");
        let cure = Trouble::of_state("42501", "must be replication role").of_target(&url).cure;
        assert!(cure.starts_with("alter role \"the\"\"reader\" with replication;"), "{cure}");
        assert_eq!(
            cure_of_target("grant create on database <database> to <user>;", &url),
            "grant create on database \"shop\" to \"the\"\"reader\";"
        );
    }

    #[test]
    fn the_servers_words_and_state_are_found_in_the_clients() {
        let error = ReplicationError::ReplicationSlot(
            "[42704] server error during replication: ERROR: publication \"p\" does not exist (SQLSTATE 42704)\n\
             ROUTINE: get_publication_oid"
                .to_owned(),
        );
        let trouble = Trouble::of_stream(&error);
        assert_eq!(
            (trouble.code, trouble.message.as_str()),
            (PUBLICATION_UNKNOWN, "publication \"p\" does not exist")
        );
        let error = ReplicationError::TransientConnection(
            "Failed to connect to db.internal:5432: refused".to_owned(),
        );
        let trouble = Trouble::of_stream(&error);
        assert_eq!(trouble.code, "UNREACHABLE");
        assert!(!trouble.message.contains("db.internal"));
    }
}
