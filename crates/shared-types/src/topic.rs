//! Names of topics and channels.

use crate::error::Problem;
use serde::Serialize;
use std::{borrow::Borrow, fmt, sync::Arc};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// A topic or channel name that may be used: `^[A-Za-z0-9._:-]{1,255}$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// A name as a client gives it.
    ///
    /// # Errors
    /// `INVALID_TOPIC` where a rule is broken; `LIMIT_EXCEEDED` (413) where it is too long.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > MAX_NAME_BYTES {
            return Err(Problem::too_large("topic", format!("at most {MAX_NAME_BYTES} bytes")));
        }
        let fits = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
        if !fits {
            return Err(Problem::field_rule("INVALID_TOPIC", "topic", "must match ^[A-Za-z0-9._:-]{1,255}$"));
        }
        Ok(Self(text.into()))
    }

    /// A name that was checked before, or one of the platform's own, which begin with `@` so that no client can use
    /// them.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// A name for the registry: lower case segments joined by dots (`order.updated`), at least one dot.
    ///
    /// # Errors
    /// `INVALID_TOPIC` where a rule is broken.
    pub fn parse_registered(text: &str) -> Result<Self, Problem> {
        let name = Self::parse(text).map_err(|problem| problem.renamed("topic", "name"))?;
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let separator = |b: u8| matches!(b, b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        let shaped = bytes.iter().all(|&b| lower(b) || separator(b))
            && lower(bytes[0])
            && lower(bytes[bytes.len() - 1])
            && !bytes.windows(2).any(|w| separator(w[0]) && separator(w[1]));
        if !shaped || !text.contains('.') {
            let rule = "must match ^[a-z0-9]+([._-][a-z0-9]+)*$ and hold at least one dot";
            return Err(Problem::field_rule("INVALID_TOPIC", "name", rule));
        }
        Ok(name)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any text; the whole name must match.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let tail: Vec<&str> = parts.collect();
    let Some((last, middle)) = tail.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "a.b:c", true),
            ("chat:*", "chat:room", true),
            ("chat:*", "chatter", false),
            ("a*c*e", "abcde", true),
            ("a*c", "abcd", false),
            ("a.b", "a.b", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn registered_names_are_stricter() {
        for good in ["session.status", "a.b-c_d", "1.2"] {
            assert!(TopicName::parse_registered(good).is_ok(), "{good}");
        }
        for bad in ["session", ".a", "a.", "a..b", "A.b", "a:b.c", ""] {
            assert!(TopicName::parse_registered(bad).is_err(), "{bad}");
        }
        assert!(TopicName::parse("chat:Room-1_x").is_ok());
        assert!(TopicName::parse("a b").is_err());
    }
}
