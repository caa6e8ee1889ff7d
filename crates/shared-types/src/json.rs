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
/// What the objects of [`RawObject`] are called in failures.
const PAYLOAD: &str = "payload";
/// The longest path in a failure, in bytes.
const MAX_PATH_BYTES: usize = 200;

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
            return Err(Problem::field_rule("INVALID_PAYLOAD", PAYLOAD, "must be a JSON object"));
        }
        Ok(Self(compact(text, PAYLOAD)?.into()))
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
                let mut members = Vec::with_capacity(16);
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

/// A rule that a text, number or level of JSON breaks, with its code.
struct Broken {
    code: &'static str,
    rule: &'static str,
}

/// Checks the texts, numbers and depth of syntactically valid JSON, which failures call `name`, and drops the white space
/// between tokens.
///
/// # Errors
/// `INVALID_TEXT`, `INVALID_NUMBER`, `TOO_DEEP`, naming the place.
pub fn compact(text: &str, name: &str) -> Result<String, Problem> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut depth) = (0, 0usize);
    while at < bytes.len() {
        let start = at;
        let broken = |Broken { code, rule }| Problem::field_rule(code, path_to(text, start, name), rule);
        match bytes[at] {
            b' ' | b'\t' | b'\n' | b'\r' => {
                at += 1;
                continue;
            }
            b'"' => at = check_string(bytes, at).map_err(broken)?,
            b'-' | b'0'..=b'9' => at = check_number(text, at).map_err(broken)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let rule = format!("nests deeper than {MAX_DEPTH}");
                    return Err(Problem::field_rule("TOO_DEEP", path_to(text, start, name), rule));
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

/// Where in the JSON called `name` the token at `stop` stands: `name.member[0]`; what a member's name breaks stands in
/// its object.
fn path_to(text: &str, stop: usize, name: &str) -> String {
    enum Level<'t> {
        Object(Option<&'t str>),
        Array(usize),
    }
    let (bytes, mut levels, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < stop {
        match (bytes[at], levels.last_mut()) {
            (b'{', _) => levels.push(Level::Object(None)),
            (b'[', _) => levels.push(Level::Array(0)),
            (b'}' | b']', _) => drop(levels.pop()),
            (b',', Some(Level::Object(member))) => *member = None,
            (b',', Some(Level::Array(index))) => *index += 1,
            (b'"', level) => {
                let open = at + 1;
                at = check_string(bytes, at).unwrap_or(stop);
                if let Some(Level::Object(member @ None)) = level {
                    *member = text.get(open..at.saturating_sub(1));
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = name.to_owned();
    for level in levels {
        match level {
            Level::Object(Some(member)) => {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(member);
            }
            Level::Object(None) => {}
            Level::Array(index) => path.push_str(&format!("[{index}]")),
        }
        if path.len() > MAX_PATH_BYTES {
            path.truncate(path.floor_char_boundary(MAX_PATH_BYTES));
            path.push('…');
            break;
        }
    }
    path
}

/// Walks over a string from its opening quote; answers the place after its closing quote.
fn check_string(bytes: &[u8], open: usize) -> Result<usize, Broken> {
    const NUL: Broken = Broken { code: "INVALID_TEXT", rule: "text may not hold NUL" };
    const LONE: Broken = Broken { code: "INVALID_TEXT", rule: "text may not hold a lone surrogate" };
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Ok(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => {
                let unit = hex4(bytes, at + 2);
                at += 6;
                match unit {
                    0 => return Err(NUL),
                    0xD800..=0xDBFF => {
                        let paired = bytes.get(at) == Some(&b'\\')
                            && bytes.get(at + 1) == Some(&b'u')
                            && (0xDC00..=0xDFFF).contains(&hex4(bytes, at + 2));
                        if !paired {
                            return Err(LONE);
                        }
                        at += 6;
                    }
                    0xDC00..=0xDFFF => return Err(LONE),
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
fn check_number(text: &str, start: usize) -> Result<usize, Broken> {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() && matches!(bytes[at], b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
        at += 1;
    }
    let finite = text[start..at].parse::<f64>().is_ok_and(f64::is_finite);
    if !finite {
        return Err(Broken { code: "INVALID_NUMBER", rule: "is a number that no 64-bit float can hold" });
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

    #[test]
    fn failures_name_the_place() {
        for (text, place) in [
            (r#"{"a":1e999}"#, "payload.a"),
            (r#"{"x":{"y":[]},"a":["b",{"c":1},[2, {"d":"\u0000"}]]}"#, "payload.a[2][1].d"),
            (r#"{"a":"c,[{\"","b":{"d":"\ud800"}}"#, "payload.b.d"),
            (r#"{"a":{"\u0000":1}}"#, "payload.a"),
            (r#"{"\u0000":1}"#, "payload"),
        ] {
            let problem = RawObject::parse(text).expect_err(text);
            assert_eq!(problem.details[0].path, place, "{text}");
            assert!(problem.message.starts_with(&format!("{place}: ")), "{}", problem.message);
        }
        assert_eq!(compact(r#"{"a":[1e999]}"#, "").expect_err("infinite").details[0].path, "a[0]");
        let long = format!("{{\"{}\":1e999}}", "ä".repeat(10_000));
        let path = RawObject::parse(&long).expect_err("infinite").details[0].path.clone();
        assert!(path.len() < 250 && path.ends_with('…'), "{}", path.len());
    }
}
