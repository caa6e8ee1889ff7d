//! Why the layer refuses or fails.

use document_store::StoreError;
use event_log::LogError;
use fred::error::{Error, ErrorKind};
use thiserror::Error as ThisError;

/// Why something on Redis did not happen.
#[derive(Clone, Debug, ThisError)]
pub enum RedisError {
    /// The URL cannot be used.
    #[error("REDIS_URL cannot be used: {0}")]
    Url(String),
    /// The server does not answer, or not yet; it may later.
    #[error("Redis is unavailable: {0}")]
    Unavailable(String),
    /// Another node of the cluster has the slot, or is about to: nothing took effect.
    #[error("Redis is unavailable: the cluster moves slots")]
    SentOn,
    /// The witness's table is not there yet: migrations have still to run.
    #[error("Redis is unavailable: the schema of its witness in PostgreSQL is not there yet")]
    NoSchema,
    /// The server does not know a script: it is another one, or has been started anew.
    #[error("Redis does not know the script")]
    UnknownScript,
    /// The server answered with something that should not be.
    #[error("Redis failed: {0}")]
    Internal(String),
}

/// Answers of the server that pass by themselves or by an operator's hand.
const PASSING: [&str; 12] = [
    "LOADING",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOPERM",
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
];

impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        let details = error.details();
        let first = details.split_whitespace().next().unwrap_or_default();
        match error.kind() {
            ErrorKind::Url | ErrorKind::Config => Self::Url(details.to_owned()),
            _ if first == "NOSCRIPT" => Self::UnknownScript,
            // The library's own text of these is one for debugging.
            ErrorKind::IO | ErrorKind::Canceled => Self::Unavailable("the connection was lost".to_owned()),
            ErrorKind::Auth => Self::Unavailable("user or password are refused".to_owned()),
            ErrorKind::Timeout => Self::Unavailable("no answer in time".to_owned()),
            // Redirections are not followed.
            ErrorKind::Routing => Self::SentOn,
            _ if details.starts_with("Failed to route") => {
                Self::Unavailable("a node is not connected".to_owned())
            }
            _ if is_answer(first) && !PASSING.contains(&first) => Self::Internal(details.to_owned()),
            // What did not come from the server came from the way to it.
            _ => Self::Unavailable(details.to_owned()),
        }
    }
}

/// Whether a text begins as the server's errors do: with a code in capitals.
fn is_answer(first: &str) -> bool {
    !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

impl From<RedisError> for LogError {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Internal(details) => Self::Internal(details),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Internal(details) => Self::Internal(details),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &'static str) -> RedisError {
        Error::new(ErrorKind::Unknown, text).into()
    }

    #[test]
    fn a_shortage_passes_and_a_wrong_script_does_not() {
        assert!(matches!(answered("OOM command not allowed"), RedisError::Unavailable(_)));
        assert!(matches!(answered("MISCONF Redis is configured to"), RedisError::Unavailable(_)));
        assert!(matches!(answered("NOPERM this user has no permissions"), RedisError::Unavailable(_)));
        assert!(matches!(answered("NOSCRIPT No matching script."), RedisError::UnknownScript));
        let unrouted = answered("Failed to route command.");
        assert_eq!(unrouted.to_string(), "Redis is unavailable: a node is not connected");
        let sent_on = RedisError::from(Error::new(ErrorKind::Routing, "Too many redirections."));
        assert!(matches!(sent_on, RedisError::SentOn));
        assert!(matches!(answered("ERR wrong number of arguments"), RedisError::Internal(_)));
    }
}
