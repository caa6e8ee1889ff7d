//! Postgres values as JSON: the text that the stream holds, by the type's object id.
//!
//! The replication session asks for ISO dates in UTC, hexadecimal `bytea` and ISO intervals, so that this text
//! has one form whatever the database's settings.

mod array;
mod number;

pub(crate) use number::compare as compare_numbers;

use base64::{Engine, engine::general_purpose::STANDARD};
use std::{borrow::Cow, collections::HashMap};

/// How the text of a type becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` and `false`.
    Bool,
    /// `smallint`, `integer`, `bigint`, `oid`: a number as written.
    Integer,
    /// `real`, `double precision`: a number; `NaN` and the infinities as texts.
    Float,
    /// `numeric`: a number where a 64-bit float holds exactly that decimal, else a text.
    Numeric,
    /// `json`, `jsonb`: the value itself.
    Json,
    /// `bytea`: base64.
    Bytes,
    /// `timestamp`: ISO 8601 without a zone.
    Timestamp,
    /// `timestamptz`: ISO 8601 in UTC with `Z`.
    TimestampTz,
    /// `date`: `2024-01-31`.
    Date,
    /// An array of values of one kind, nested as it is.
    Array(Box<Kind>),
    /// Everything else: its text.
    Text,
}

/// Types that a database defines itself and that stand for another: domains, and arrays of own types.
#[derive(Clone, Debug, Default)]
pub struct OwnTypes {
    kinds: HashMap<u32, Kind>,
    /// The highest type there was.
    newest: u32,
}

/// Types below are the server's own.
const FIRST_OWN: u32 = 16_384;

impl OwnTypes {
    /// Reads `(type, base type of a domain or 0, element type of an array or 0)`; types that are neither may be among
    /// them.
    pub fn new(rows: &[(u32, u32, u32)]) -> Self {
        let newest = rows.iter().map(|(oid, ..)| *oid).max().unwrap_or(0);
        let mut types = Self { kinds: HashMap::new(), newest };
        // Domains over domains and arrays of domains resolve from the inside out, in as many passes as they nest.
        for _ in 0..4 {
            for &(oid, base, element) in rows {
                let kind = match (base, element) {
                    (0, 0) => continue,
                    (0, element) => Kind::Array(Box::new(Kind::of(element, &types))),
                    (base, _) => Kind::of(base, &types),
                };
                types.kinds.insert(oid, kind);
            }
        }
        types
    }

    /// Whether `oid` was among the types that were asked for, or is one of the server's.
    pub fn covers(&self, oid: u32) -> bool {
        oid < FIRST_OWN || oid <= self.newest
    }
}

impl Kind {
    /// The kind of the type `oid`; what is not known is [`Kind::Text`].
    pub fn of(oid: u32, own: &OwnTypes) -> Self {
        if let Some(scalar) = Self::scalar(oid) {
            return scalar;
        }
        let element = match oid {
            1000 => 16,
            1001 => 17,
            1005 | 1007 | 1016 | 1028 => 20,
            1021 | 1022 => 701,
            1231 => 1700,
            199 | 3807 => 114,
            1115 => 1114,
            1185 => 1184,
            1182 => 1082,
            1002 | 1003 | 1009 | 1014 | 1015 | 1183 | 1187 | 1270 | 2951 | 1040 | 1041 | 651 => 25,
            _ => return own.kinds.get(&oid).cloned().unwrap_or(Self::Text),
        };
        Self::Array(Box::new(Self::scalar(element).unwrap_or(Self::Text)))
    }

    fn scalar(oid: u32) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytes,
            20 | 21 | 23 | 26 => Self::Integer,
            700 | 701 => Self::Float,
            1700 => Self::Numeric,
            114 | 3802 => Self::Json,
            1082 => Self::Date,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            18 | 19 | 25 | 1042 | 1043 | 1083 | 1186 | 1266 | 2950 => Self::Text,
            _ => return None,
        })
    }

    /// Appends the JSON of a value whose text is `bytes`.
    pub fn write(&self, out: &mut String, bytes: &[u8]) {
        let text = text(bytes);
        self.write_text(out, &text);
    }

    fn write_text(&self, out: &mut String, text: &str) {
        match self {
            Self::Bool => out.push_str(if text == "t" || text == "true" { "true" } else { "false" }),
            Self::Integer => number::write_integer(out, text),
            Self::Float => number::write_float(out, text),
            Self::Numeric => number::write_numeric(out, text),
            Self::Json => write_json(out, text),
            Self::Bytes => write_bytes(out, text),
            Self::Timestamp | Self::TimestampTz => push_text(out, &iso(text)),
            Self::Array(element) => array::write(out, element, text),
            Self::Date | Self::Text => push_text(out, text),
        }
    }

    /// The text of a value as a mapping compares it: as its JSON text would read.
    pub(crate) fn comparable<'t>(&self, bytes: &'t [u8]) -> Cow<'t, str> {
        let text = text(bytes);
        match self {
            Self::Timestamp | Self::TimestampTz => Cow::Owned(iso(&text).into_owned()),
            Self::Bytes => {
                let mut out = String::new();
                write_bytes(&mut out, &text);
                Cow::Owned(out.trim_matches('"').to_owned())
            }
            _ => text,
        }
    }
}

/// The text of a value. A database without an encoding can hold bytes that are none: those become U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1F => {
                out.push_str(&text[written..at]);
                out.push_str(&format!("\\u{byte:04x}"));
                written = at + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[written..at]);
        out.push_str(escape);
        written = at + 1;
    }
    out.push_str(&text[written..]);
    out.push('"');
}

/// JSON without white space between tokens. `json` keeps what cannot travel (NUL, lone surrogates, numbers beyond
/// 64 bits): that goes as its text.
fn write_json(out: &mut String, text: &str) {
    let valid = serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok();
    match valid.then(|| shared_types::json::compact(text, "value")) {
        Some(Ok(compact)) => out.push_str(&compact),
        _ => push_text(out, text),
    }
}

/// `\x6869` as base64.
fn write_bytes(out: &mut String, text: &str) {
    let Some(digits) = text.strip_prefix("\\x").map(str::as_bytes) else { return push_text(out, text) };
    let nibble = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | pair.get(1).map_or(0, |b| nibble(*b))).collect();
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// `2024-01-31 10:00:00.5+00` as `2024-01-31T10:00:00.5Z`; `infinity` and years before 1 stay as they are.
fn iso(text: &str) -> Cow<'_, str> {
    let Some((date, time)) = text.split_once(' ').filter(|_| !text.ends_with("BC")) else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len() + 3);
    out.push_str(date);
    out.push('T');
    let zone = time.find(['+', '-']).unwrap_or(time.len());
    out.push_str(&time[..zone]);
    match &time[zone..] {
        "" => {}
        "+00" | "+00:00" => out.push('Z'),
        hours if hours.len() == 3 => {
            out.push_str(hours);
            out.push_str(":00");
        }
        offset => out.push_str(offset),
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
