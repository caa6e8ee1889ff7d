//! How documents and their revisions stand in Redis: pure.
//!
//! A document has a head of words (generation, revision, created, updated, expires or `-`, deleted) and a value. With
//! plain keys the value is the data's text. With RedisJSON it is `{ head, data }`, so that whoever looks at the key sees
//! the document; there numbers and texts may come back written otherwise, so that where they could, `text` holds the data
//! as it was written.

use crate::{error::RedisError, scripts::Encoding};
use document_store::{Change, Document, DocumentKey, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared_types::{EventId, RawObject};
use std::borrow::Cow;

/// The head of `document` under `generation`.
pub fn head(generation: &str, document: &Document) -> String {
    let Document { revision, created_at, updated_at, expires_at, deleted, .. } = document;
    let expires_at = expires_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    format!("{generation} {revision} {created_at} {updated_at} {expires_at} {}", u8::from(*deleted))
}

/// Whether a head stands for a document that is not in Redis, and is loaded.
pub fn is_mark(head: &str) -> bool {
    head.starts_with('?')
}

/// The generation under which a head was written.
pub fn generation_of(head: &str) -> &str {
    head.split(' ').next().unwrap_or_default()
}

/// Reads a document from its head and its value as a script answers it.
///
/// # Errors
/// `Internal` where they are none that we wrote.
pub fn document(key: &DocumentKey, head: &str, value: &str) -> Result<Document, RedisError> {
    let read = || {
        let mut words = head.split(' ').skip(1);
        let mut word = || words.next();
        Some(Document {
            key: key.clone(),
            revision: word()?.parse().ok()?,
            created_at: word()?.parse().ok()?,
            updated_at: word()?.parse().ok()?,
            expires_at: match word()? {
                "-" => None,
                at => Some(at.parse().ok()?),
            },
            deleted: word()? == "1",
            data: data(value)?,
        })
    };
    read().ok_or_else(|| RedisError::Internal("a document in Redis cannot be read".to_owned()))
}

/// A value of RedisJSON.
#[derive(Deserialize)]
struct Held<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

fn data(value: &str) -> Option<RawObject> {
    let Some(value) = value.strip_prefix('J') else {
        return value.starts_with('{').then(|| RawObject::from_trusted(value));
    };
    let held: Held<'_> = serde_json::from_str(value).ok()?;
    Some(RawObject::from_trusted(held.text.as_deref().unwrap_or(held.data.get())))
}

/// The value of `document`, which has `head`.
pub fn value(encoding: Encoding, head: &str, document: &Document) -> String {
    let data = document.data.as_str();
    match encoding {
        Encoding::Plain => data.to_owned(),
        Encoding::Json if comes_back(data) => format!("{{\"head\":\"{head}\",\"data\":{data}}}"),
        Encoding::Json => {
            let text = serde_json::Value::from(data);
            format!("{{\"head\":\"{head}\",\"data\":{data},\"text\":{text}}}")
        }
    }
}

/// Whether RedisJSON is sure to answer this text as it is: where numbers are small whole ones and texts have no escapes.
/// Members with equal names are told apart by nobody, so that a text may only have them once.
fn comes_back(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => match text[at + 1..].find(['"', '\\']) {
                Some(length) if bytes[at + 1 + length] == b'"' => at += length + 2,
                _ => return false,
            },
            b'-' | b'0'..=b'9' => {
                let length = text[at..].find([',', '}', ']']).unwrap_or(text.len() - at);
                let number = &text[at..at + length];
                let is_plain = number.len() < 16
                    && number != "-0"
                    && number.strip_prefix('-').unwrap_or(number).bytes().all(|b| b.is_ascii_digit());
                if !is_plain {
                    return false;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    has_unique_members(text)
}

/// Whether no object of `text` names a member twice.
fn has_unique_members(text: &str) -> bool {
    use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
    use std::{collections::HashSet, fmt};

    struct Unique;
    impl<'de> Deserialize<'de> for Unique {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Walk)
        }
    }
    struct Walk;
    impl<'de> Visitor<'de> for Walk {
        type Value = Unique;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON without equal names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
            let mut names: HashSet<Cow<'de, str>> = HashSet::new();
            while let Some(name) = map.next_key::<&'de str>()? {
                if !names.insert(Cow::Borrowed(name)) {
                    return Err(serde::de::Error::custom("equal names"));
                }
                map.next_value::<Unique>()?;
            }
            Ok(Unique)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
            while seq.next_element::<Unique>()?.is_some() {}
            Ok(Unique)
        }

        fn visit_unit<E>(self) -> Result<Unique, E> {
            Ok(Unique)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
            Ok(Unique)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
            Ok(Unique)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
            Ok(Unique)
        }

        fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
            Ok(Unique)
        }
    }
    serde_json::from_str::<Unique>(text).is_ok()
}

/// What is remembered of a revision, beside its number.
pub fn record(revision: &Revision) -> String {
    let Revision { change, diff, undo, event_id, at, .. } = revision;
    let (id, diff) = (event_id.as_str(), diff.as_str());
    let lengths = format!(" {at} {} {}\n", id.len(), diff.len());
    [change.as_str(), &lengths, id, diff, undo].concat()
}

/// Reads what [`record`] wrote.
pub fn read_record(number: &str, record: &str) -> Option<Revision> {
    let (front, parts) = record.split_once('\n')?;
    let mut words = front.split(' ');
    let (change, at) = (Change::from_stored(words.next()?)?, words.next()?.parse().ok()?);
    let (id, parts) = parts.split_at_checked(words.next()?.parse().ok()?)?;
    let (diff, undo) = parts.split_at_checked(words.next()?.parse().ok()?)?;
    Some(Revision {
        revision: number.parse().ok()?,
        change,
        diff: RawObject::from_trusted(diff),
        undo: undo.into(),
        event_id: EventId::from_stored(id),
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use document_store::{DocumentId, ServiceName};
    use shared_types::{AppId, Environment, Scope};

    fn made(data: &str) -> Document {
        Document {
            key: DocumentKey {
                scope: Scope::new(AppId::from_stored("app_a"), Environment::Staging),
                service: ServiceName::from_stored("notes"),
                id: DocumentId::from_stored("one"),
            },
            revision: 7,
            data: RawObject::from_trusted(data),
            created_at: 5,
            updated_at: 6,
            expires_at: None,
            deleted: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let expiring = Document { expires_at: Some(9), deleted: true, ..made("{\"a\":1}") };
        for document in [made("{\"a\":1}"), made(r#"{"a":1.0,"b":"\u00e4\"","c":1e2}"#), expiring] {
            let head = head("0123abcd", &document);
            assert_eq!(generation_of(&head), "0123abcd");
            let plain = value(Encoding::Plain, &head, &document);
            assert_eq!(super::document(&document.key, &head, &plain).expect("read"), document);
            let json = format!("J{}", value(Encoding::Json, &head, &document));
            assert_eq!(super::document(&document.key, &head, &json).expect("read"), document);
        }
        assert!(super::document(&made("{}").key, "0123abcd 1 2", "{}").is_err());
        assert!(is_mark("?w:1") && !is_mark("0123abcd 1"));
    }

    #[test]
    fn only_what_is_sure_to_come_back_goes_without_its_text() {
        for sure in [r#"{"a":1,"b":[-5,{"x":"ä"}],"c":null,"d":true,"":{}}"#, "{}"] {
            assert!(comes_back(sure), "{sure}");
        }
        let unsure =
            [r#"{"a":1.0}"#, r#"{"a":1e2}"#, r#"{"a":"\n"}"#, r#"{"a":12345678901234567890}"#, r#"{"a":-0}"#];
        for unsure in unsure.into_iter().chain([r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"a":2}]}"#]) {
            assert!(!comes_back(unsure), "{unsure}");
        }
    }

    #[test]
    fn revisions_come_back() {
        let revision = Revision {
            revision: 3,
            change: Change::Updated,
            diff: RawObject::from_trusted("{\"added\":{\"ü\":1}}"),
            undo: "[1\n]".into(),
            event_id: EventId::from_stored("evt ü"),
            at: 12,
        };
        assert_eq!(read_record("3", &record(&revision)), Some(revision));
        assert_eq!(read_record("3", "updated 12 99 1\nx"), None);
    }
}
