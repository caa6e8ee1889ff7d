//! The kinds of failure that a caller can meet, and the shape in which it is told.

use serde::Serialize;
use std::fmt;

/// What kind of failure a caller meets; decides the HTTP status and the documented class name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong (400).
    Invalid,
    /// Nobody, or nobody we believe (401).
    Unauthenticated,
    /// Somebody without the right (403).
    Forbidden,
    /// Not there, or not for this caller (404).
    NotFound,
    /// Contradicts what is stored (409).
    Conflict,
    /// Larger than the limit (413).
    TooLarge,
    /// More often than the limit (429).
    TooMany,
    /// A part that is needed is not there now (503).
    Unavailable,
    /// Our fault (500).
    Internal,
}

impl ErrorKind {
    /// The HTTP status of this kind.
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::TooMany => 429,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The documented class name, `error` in every error object.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Invalid => "ValidationError",
            Self::Unauthenticated => "UnauthorizedError",
            Self::Forbidden => "ForbiddenError",
            Self::NotFound => "NotFoundError",
            Self::Conflict => "ConflictError",
            Self::TooLarge => "PayloadTooLargeError",
            Self::TooMany => "RateLimitError",
            Self::Unavailable => "UnavailableError",
            Self::Internal => "InternalError",
        }
    }
}

/// One field that breaks one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// JSON pointer or dotted path of the field.
    pub path: String,
    /// The rule that it breaks.
    pub message: String,
}

impl Violation {
    /// A violation at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// A failure as a caller is told it: the same in REST, acks and frames.
///
/// The message names field and rule and never holds SQL, hosts or secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The kind, which gives status and class.
    pub kind: ErrorKind,
    /// A stable code, listed in `docs/error-codes.md`.
    pub code: &'static str,
    /// What is wrong, for a person.
    pub message: String,
    /// The fields concerned, if the failure is about fields.
    pub details: Vec<Violation>,
}

impl Problem {
    /// A failure of `kind` with its stable `code`.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), details: Vec::new() }
    }

    /// A bad request (400).
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, code, message)
    }

    /// A bad field: 400 `VALIDATION_FAILED` with one detail.
    pub fn field(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::fields(vec![Violation::new(path, rule)])
    }

    /// Several bad fields: 400 `VALIDATION_FAILED`. The message names the first.
    pub fn fields(details: Vec<Violation>) -> Self {
        let message = match details.first() {
            Some(first) if first.path.is_empty() => first.message.clone(),
            Some(first) => format!("{}: {}", first.path, first.message),
            None => "the request is not valid".to_owned(),
        };
        Self { kind: ErrorKind::Invalid, code: "VALIDATION_FAILED", message, details }
    }

    /// A bad field whose rule has a code of its own (400).
    pub fn field_rule(code: &'static str, path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { code, ..Self::field(path, rule) }
    }

    /// A field over a limit of size or number (413).
    pub fn too_large(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { kind: ErrorKind::TooLarge, ..Self::field_rule("LIMIT_EXCEEDED", path, rule) }
    }

    /// The same failure where the caller knows the field `from`, and what lies in it, as `to`.
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        let rename = |text: &mut String| {
            let rest =
                text.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[', ':']));
            if let Some(renamed) = rest.map(|rest| format!("{to}{rest}")) {
                *text = renamed;
            }
        };
        rename(&mut self.message);
        self.details.iter_mut().for_each(|detail| rename(&mut detail.path));
        self
    }

    /// The same failure of fields that lie within another: `document.id` for `id`.
    pub fn within(mut self, outer: &str) -> Self {
        for detail in &mut self.details {
            detail.path = format!("{outer}.{}", detail.path);
        }
        self.message = format!("{outer}.{}", self.message);
        self
    }

    /// A missing right (403).
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, "FORBIDDEN", message)
    }

    /// Not there (404).
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(ErrorKind::NotFound, "NOT_FOUND", format!("{what} not found: {name}"))
    }

    /// Over a limit (429).
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::TooMany, "LIMIT_EXCEEDED", message)
    }

    /// A part that is needed is not there now (503).
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, "UNAVAILABLE", message)
    }

    /// Our fault (500). The cause belongs in the log, not here.
    pub fn internal() -> Self {
        Self::new(
            ErrorKind::Internal,
            "INTERNAL",
            "something went wrong on our side; the log has the request id",
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Problem {}
