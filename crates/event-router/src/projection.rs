//! What of a document's change a subscriber gets, by return mode.

use event_log::StoredEvent;
use shared_types::{ReturnMode, Source, json::RawMembers};
use std::borrow::Cow;

/// The mode in which `event` is told to a subscriber of `mode`: events that are not from sync have only one.
pub fn effective(event: &StoredEvent, mode: ReturnMode) -> ReturnMode {
    if event.source == Source::Sync { mode } else { ReturnMode::Full }
}

/// The payload for `mode`: of a sync event `data` without `diff` (full), `diff` without `data` (diff), or both.
pub fn project(event: &StoredEvent, mode: ReturnMode) -> Cow<'_, str> {
    let whole = event.payload.as_str();
    let dropped = match (event.source, mode) {
        (Source::Sync, ReturnMode::Full) => "diff",
        (Source::Sync, ReturnMode::Diff) => "data",
        _ => return Cow::Borrowed(whole),
    };
    let Ok(members) = serde_json::from_str::<RawMembers<'_>>(whole) else { return Cow::Borrowed(whole) };
    let mut out = String::with_capacity(whole.len());
    for (name, value) in members.0.iter().filter(|(name, _)| name != dropped) {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::Value::from(name.as_ref()).to_string());
        out.push(':');
        out.push_str(value.get());
    }
    out.push_str(if out.is_empty() { "{}" } else { "}" });
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_log::TopicKey;
    use shared_types::{AppId, Environment, EventId, Position, RawObject, Scope, TopicName};

    fn event(source: Source) -> StoredEvent {
        StoredEvent {
            key: TopicKey {
                scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
                topic: TopicName::parse("sync.notes.updated").expect("valid"),
            },
            position: Position::new("e", 1),
            id: EventId::from_stored("evt_1"),
            source,
            kind: "sync.updated".into(),
            payload: RawObject::from_trusted(r#"{"revision":2,"data":{"a":1.0},"diff":{"added":{}}}"#),
            metadata: RawObject::from_trusted("{\"timestamp\":1}"),
        }
    }

    #[test]
    fn sync_events_are_cut_to_the_mode() {
        let sync = event(Source::Sync);
        assert_eq!(project(&sync, ReturnMode::Full), r#"{"revision":2,"data":{"a":1.0}}"#);
        assert_eq!(project(&sync, ReturnMode::Diff), r#"{"revision":2,"diff":{"added":{}}}"#);
        assert_eq!(project(&sync, ReturnMode::Both), sync.payload.as_str());
    }

    #[test]
    fn other_events_are_the_same_in_all_modes() {
        let other = event(Source::Socket);
        for mode in [ReturnMode::Full, ReturnMode::Diff, ReturnMode::Both] {
            assert_eq!(project(&other, mode), other.payload.as_str());
            assert_eq!(effective(&other, mode), ReturnMode::Full);
        }
    }
}
