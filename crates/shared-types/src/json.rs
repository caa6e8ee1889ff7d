//! JSON that is checked once and then travels as text.
//!
//! A payload is never rebuilt from a parsed value: numbers stay as written, key order stays, and nothing is
//! spent on parsing where nobody asks for a field.

use crate::error::Problem;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;
use std::{borrow::Cow, sync::Arc};

/// How deeply objects and arrays may nest.
pub const MAX_DEPTH: usize = 100;

/// The text of a JSON object, checked and without white space between tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawObject(Arc<str>);

impl RawObject {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// `INVALID_JSON` (not JSON, or no object), `INVALID_TEXT` (NUL or a lone surrogate), `INVALID_NUMBER`
    /// (one that no 64-bit float can hold), `TOO_DEEP`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|e| Problem::invalid("INVALID_JSON", format!("payload: {e}")))?;
        Self::from_raw(raw)
    }

    /// Checks an already parsed raw value and keeps it.
    ///
    /// # Errors
    /// As [`RawObject::parse`].
    pub fn from_raw(raw: &RawValue) -> Result<Self, Problem> {
        let text = raw.get();
        if !text.starts_with('{') {
            return Err(Problem::invalid("INVALID_PAYLOAD", "payload: must be a JSON object"));
        }
        Ok(Self(compact(text)?.into()))
    }

    /// Text that this process wrote itself, or that was checked before it was stored.
    pub fn from_trusted(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::from_raw(&raw).map_err(D::Error::custom)
    }
}

/// The members of an object in their order, with values as written.
#[derive(Debug, Default)]
pub struct RawMembers<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RawMembers<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((member.0.0, member.1));
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A member's name, borrowed where it holds no escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Checks the texts, numbers and depth of syntactically valid JSON and drops the white space between tokens.
///
/// # Errors
/// `INVALID_TEXT`, `INVALID_NUMBER`, `TOO_DEEP`.
pub fn compact(text: &str) -> Result<String, Problem> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut depth) = (0, 0usize);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'"' => at = check_string(bytes, at)?,
            b'-' | b'0'..=b'9' => at = check_number(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Problem::invalid(
                        "TOO_DEEP",
                        format!("payload: nests deeper than {MAX_DEPTH}"),
                    ));
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
        out.push_str(&text[start..at]);
    }
    Ok(out)
}

/// Walks over a string from its opening quote; answers the place after its closing quote.
fn check_string(bytes: &[u8], open: usize) -> Result<usize, Problem> {
    let problem = |what: &str| Problem::invalid("INVALID_TEXT", format!("payload: text may not hold {what}"));
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Ok(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => {
                let unit = hex4(bytes, at + 2);
                at += 6;
                match unit {
                    0 => return Err(problem("NUL")),
                    0xD800..=0xDBFF => {
                        let paired = bytes.get(at) == Some(&b'\\')
                            && bytes.get(at + 1) == Some(&b'u')
                            && (0xDC00..=0xDFFF).contains(&hex4(bytes, at + 2));
                        if !paired {
                            return Err(problem("a lone surrogate"));
                        }
                        at += 6;
                    }
                    0xDC00..=0xDFFF => return Err(problem("a lone surrogate")),
                    _ => {}
                }
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

fn hex4(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|h| std::str::from_utf8(h).ok())
        .and_then(|h| u32::from_str_radix(h, 16).ok())
        .unwrap_or(0xFFFF_FFFF)
}

/// Walks over a number; answers the place after it.
fn check_number(text: &str, start: usize) -> Result<usize, Problem> {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
        at += 1;
    }
    let finite = text[start..at].parse::<f64>().is_ok_and(f64::is_finite);
    if !finite {
        return Err(Problem::invalid(
            "INVALID_NUMBER",
            "payload: holds a number that no 64-bit float can hold",
        ));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_numbers_as_written_and_drops_white_space() {
        let raw =
            RawObject::parse("{ \"a\" : [1.0, 1e2,\n 12345678901234567890 ], \"b c\":\" x \\n\\u00e4\" }");
        assert_eq!(
            raw.map(|r| r.as_str().to_owned()),
            Ok("{\"a\":[1.0,1e2,12345678901234567890],\"b c\":\" x \\n\\u00e4\"}".to_owned())
        );
    }

    #[test]
    fn refuses_what_cannot_be_carried() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(101), "]".repeat(101));
        for (text, code) in [
            ("[1]", "INVALID_PAYLOAD"),
            ("nonsense", "INVALID_JSON"),
            ("{\"a\":1e999}", "INVALID_NUMBER"),
            ("{\"a\":\"\\u0000\"}", "INVALID_TEXT"),
            ("{\"a\":\"\\ud800x\"}", "INVALID_TEXT"),
            ("{\"a\":\"\\udc00\"}", "INVALID_TEXT"),
            (deep.as_str(), "TOO_DEEP"),
        ] {
            let problem = RawObject::parse(text).expect_err(text);
            assert_eq!(problem.code, code, "{text}");
        }
        assert!(RawObject::parse("{\"a\":\"\\ud83d\\ude00\"}").is_ok());
    }
}
