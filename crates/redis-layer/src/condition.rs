//! What is said of Redis to whoever asks whether the process is ready.

use crate::{documents::UnflushedDocuments, generation::Seen};
use event_log::Condition;
use std::sync::atomic::Ordering;

/// The share of the server's memory, in percent, from which histories are kept shorter.
pub const SHORT: u64 = 80;
/// How long documents may wait to be flushed before it is said.
const LONG_MS: u64 = 30_000;

/// The server's state, and what of its settings can lose data, which is a warning only.
pub fn of(seen: &Seen) -> Vec<Condition> {
    if let Some(trouble) = &seen.trouble {
        return vec![Condition { name: "redis", ok: false, message: Some(trouble.to_string()) }];
    }
    if seen.nodes.is_empty() {
        let message = "Redis has not answered yet; it is tried on".to_owned();
        return vec![Condition { name: "redis", ok: false, message: Some(message) }];
    }
    let mut weak: Vec<String> = Vec::new();
    for node in &seen.nodes {
        match &node.weaknesses {
            Some(found) => weak.extend(found.iter().cloned()),
            None => weak.push("persistence cannot be read: CONFIG is not allowed".to_owned()),
        }
        weak.extend(shortage(node.memory));
    }
    weak.sort();
    weak.dedup();
    let message = (!weak.is_empty()).then(|| weak.join("; "));
    vec![Condition { name: "redis", ok: true, message }]
}

/// What is said of a node whose memory runs short.
fn shortage((used, limit): (u64, u64)) -> Option<String> {
    let percent = (used.saturating_mul(100)).checked_div(limit)?;
    match percent {
        ..SHORT => None,
        SHORT..100 => Some(format!("{percent} % of maxmemory is used: histories are kept shorter")),
        100.. => Some("maxmemory is used up: nothing more is taken until there is room".to_owned()),
    }
}

/// What is said of documents that are not in the archive yet, where there are too many or they wait for too long. A
/// warning only: whatever else this process serves goes on.
pub fn of_documents(unflushed: &UnflushedDocuments) -> Option<Condition> {
    let (count, lag_ms) = (unflushed.count.load(Ordering::Relaxed), unflushed.lag_ms.load(Ordering::Relaxed));
    let is_full = unflushed.is_full.load(Ordering::Relaxed);
    if !is_full && lag_ms < LONG_MS {
        return None;
    }
    let refused = if is_full { "; no further write is taken" } else { "" };
    let seconds = lag_ms / 1_000;
    let message = format!("{count} documents wait for PostgreSQL, the oldest for {seconds} s{refused}");
    Some(Condition { name: "documents", ok: true, message: Some(message) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::RedisError, generation::Node};

    #[test]
    fn weak_settings_are_said_and_do_not_fail() {
        let node = |weaknesses| Node { weaknesses, ..Node::default() };
        let seen = |nodes| Seen { nodes, trouble: None };
        let good = of(&seen(vec![node(Some(Vec::new()))])).remove(0);
        assert!(good.ok && good.message.is_none());
        let weak = of(&seen(vec![node(Some(vec!["appendfsync is everysec".to_owned()]))])).remove(0);
        assert!(weak.ok && weak.message.is_some_and(|message| message.contains("everysec")));
        let hidden = of(&seen(vec![node(None)])).remove(0);
        assert!(hidden.ok && hidden.message.is_some());
    }

    #[test]
    fn memory_that_runs_short_is_said() {
        let said = |used, limit| {
            let node = Node { weaknesses: Some(Vec::new()), memory: (used, limit), ..Node::default() };
            let condition = of(&Seen { nodes: vec![node], trouble: None }).remove(0);
            assert!(condition.ok);
            condition.message
        };
        assert_eq!(said(500, 0), None);
        assert_eq!(said(79, 100), None);
        assert!(said(80, 100).is_some_and(|said| said.starts_with("80 % of maxmemory")));
        assert!(said(120, 100).is_some_and(|said| said.contains("used up")));
    }

    #[test]
    fn documents_that_wait_for_long_are_said() {
        let unflushed = UnflushedDocuments::default();
        assert_eq!(of_documents(&unflushed), None);
        unflushed.lag_ms.store(LONG_MS, Ordering::Relaxed);
        assert!(of_documents(&unflushed).is_some_and(|condition| condition.ok));
        unflushed.lag_ms.store(0, Ordering::Relaxed);
        unflushed.is_full.store(true, Ordering::Relaxed);
        let said = of_documents(&unflushed).and_then(|condition| condition.message);
        assert!(said.is_some_and(|said| said.contains("no further write")));
    }

    #[test]
    fn an_unreachable_server_fails() {
        assert!(!of(&Seen::default())[0].ok);
        assert!(!of(&Seen { trouble: Some(RedisError::NoSchema), ..Seen::default() })[0].ok);
    }
}
