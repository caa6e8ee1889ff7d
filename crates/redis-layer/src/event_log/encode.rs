//! How an event stands in streams and messages: a head of lines and then its parts, each written once.
//!
//! `epoch:offset`, application, environment, topic and source by line, then the lengths of id, type and payload,
//! and behind them id, type, payload and metadata without separators.

use bytes::Bytes;
use event_log::{Entry, LogError, StoredEvent, TopicKey};
use shared_types::{AppId, EventId, Position, RawObject, Scope, TopicName};
use std::{fmt::Write as _, sync::Arc};

/// An entry as it is stored, without its position, which the server puts in front.
pub fn encode(entry: &Entry) -> Bytes {
    let (id, kind) = (entry.id.as_str(), &*entry.kind);
    let (payload, metadata) = (entry.payload.as_str(), entry.metadata.as_str());
    let (scope, topic) = (&entry.key.scope, entry.key.topic.as_str());
    let mut out = String::with_capacity(
        payload.len()
            + metadata.len()
            + id.len()
            + kind.len()
            + topic.len()
            + scope.application().as_str().len()
            + 64,
    );
    let _ = writeln!(
        out,
        "\n{}\n{}\n{topic}\n{}",
        scope.application(),
        scope.environment(),
        entry.source.as_str()
    );
    let _ = writeln!(out, "{} {} {}", id.len(), kind.len(), payload.len());
    out.extend([id, kind, payload, metadata]);
    out.into()
}

/// Reads a stored event.
///
/// # Errors
/// `Internal` where the text is none that [`encode`] made.
pub fn decode(text: &str) -> Result<StoredEvent, LogError> {
    read(text).ok_or_else(|| LogError::Internal("an event in Redis cannot be read".to_owned()))
}

/// Reads a stored event of a topic that is known, which spares building its key.
///
/// # Errors
/// As [`decode`].
pub fn decode_for(key: &TopicKey, text: &str) -> Result<StoredEvent, LogError> {
    let read = || {
        let (position, rest) = text.split_once('\n')?;
        let rest = (0..3).try_fold(rest, |rest, _| Some(rest.split_once('\n')?.1))?;
        finish(key.clone(), read_position(position)?, rest)
    };
    read().ok_or_else(|| LogError::Internal("an event in Redis cannot be read".to_owned()))
}

/// Reads `epoch:offset` from the front of a stored event, or a head.
pub fn read_position(text: &str) -> Option<Position> {
    let (epoch, offset) = text.split_once(':')?;
    Some(Position::new(epoch, offset.parse().ok()?))
}

fn read(text: &str) -> Option<StoredEvent> {
    let (position, rest) = text.split_once('\n')?;
    let (application, rest) = rest.split_once('\n')?;
    let (environment, rest) = rest.split_once('\n')?;
    let (topic, rest) = rest.split_once('\n')?;
    let key = TopicKey {
        scope: Scope::new(AppId::from_stored(application), environment.parse().ok()?),
        topic: TopicName::from_stored(topic),
    };
    finish(key, read_position(position)?, rest)
}

fn finish(key: TopicKey, position: Position, rest: &str) -> Option<StoredEvent> {
    let (source, rest) = rest.split_once('\n')?;
    let (lengths, parts) = rest.split_once('\n')?;
    let mut lengths = lengths.split(' ').map(str::parse::<usize>);
    let mut parts = parts;
    let mut part = || {
        let (part, behind) = parts.split_at_checked(lengths.next()?.ok()?)?;
        parts = behind;
        Some(part)
    };
    let (id, kind, payload) = (part()?, part()?, part()?);
    Some(StoredEvent {
        key,
        position,
        id: EventId::from_stored(id),
        source: source.parse().ok()?,
        kind: Arc::from(kind),
        payload: RawObject::from_trusted(payload),
        metadata: RawObject::from_trusted(parts),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_log::Identity;
    use shared_types::{Environment, Source};

    fn entry() -> Entry {
        Entry {
            key: TopicKey {
                scope: Scope::new(AppId::from_stored("app_a"), Environment::Production),
                topic: TopicName::parse("order.updated").expect("valid"),
            },
            id: EventId::from_stored("ein\nname ü"),
            source: Source::Database,
            kind: "an\nodd: type".into(),
            payload: RawObject::from_trusted("{\"a\":\"b\\nc\"}"),
            metadata: RawObject::from_trusted("{\"timestamp\":1}"),
            identity: Identity::Unique,
        }
    }

    fn stored() -> String {
        format!("0123456789abcdef0123:42{}", String::from_utf8(encode(&entry()).to_vec()).expect("text"))
    }

    #[test]
    fn what_is_written_is_read() {
        let expected = StoredEvent::new(&entry(), Position::new("0123456789abcdef0123", 42)).to_json();
        let read = decode(&stored()).expect("read");
        assert_eq!((read.to_json(), &read.key), (expected.clone(), &entry().key));
        assert_eq!(decode_for(&entry().key, &stored()).expect("read").to_json(), expected);
    }

    #[test]
    fn a_topic_of_the_platforms_own_is_read() {
        let key = TopicKey { topic: TopicName::from_stored("@connections"), ..entry().key };
        let text = String::from_utf8(encode(&Entry { key: key.clone(), ..entry() }).to_vec()).expect("text");
        assert_eq!(decode(&format!("e:1{text}")).expect("read").key, key);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let text = stored();
        let last_length = text.find("11\n").map_or(0, |at| at + 2);
        for end in 0..last_length {
            if text.is_char_boundary(end) {
                assert!(decode(&text[..end]).is_err(), "{:?}", &text[..end]);
            }
        }
    }
}
