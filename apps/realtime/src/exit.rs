//! How a command ends: the exit codes and what is said with them.

use crate::terminal;
use database::DatabaseError;
use std::fmt::Display;
use std::process::ExitCode;

/// What a command gives back.
pub type Outcome<T = ()> = Result<T, Failure>;

/// The documented exit codes beside 0 and clap's 2 for bad usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It did not work.
    Failure = 1,
    /// The arguments cannot be understood (`EX_USAGE` is clap's 2).
    Usage = 2,
    /// A server that is needed does not answer (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Not signed in, or without the right (`EX_NOPERM`).
    NoPermission = 77,
    /// Bad configuration (`EX_CONFIG`).
    Config = 78,
    /// Ended by a second Ctrl-C.
    Interrupted = 130,
}

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// Something to say, and the code.
    Said(Code, String),
    /// All has been said.
    Silent(Code),
    /// Nobody reads our output any more: a good end.
    PipeClosed,
}

impl Failure {
    /// A failure with something to say.
    pub fn new(code: Code, message: impl Display) -> Self {
        Self::Said(code, message.to_string())
    }

    /// The server at `url` does not answer.
    pub fn unreachable(url: impl Display, why: impl Display) -> Self {
        let message = format!(
            "no answer from {url}: {why}\n  start a server with `realtime dev`, or name one with --url or REALTIME_URL"
        );
        Self::new(Code::Unavailable, message)
    }

    /// Says it on standard error; the process's exit code.
    pub fn report(self) -> ExitCode {
        let code = match self {
            Self::PipeClosed => return ExitCode::SUCCESS,
            Self::Silent(code) => code,
            Self::Said(code, message) => {
                terminal::complain(&message);
                code
            }
        };
        ExitCode::from(code as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failure, format!("{error:#}"))
    }
}

impl From<shared_config::ConfigErrors> for Failure {
    fn from(errors: shared_config::ConfigErrors) -> Self {
        Self::new(Code::Config, errors)
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let code = match error {
            DatabaseError::Unavailable(_) => Code::Unavailable,
            DatabaseError::Setting(_) => Code::Config,
            _ => Code::Failure,
        };
        Self::new(code, error)
    }
}
