//! What is said of Redis to whoever asks whether the process is ready.

use crate::generation::Seen;
use event_log::Condition;

/// The server's state, and what of its settings can lose data, which is a warning only.
pub fn of(seen: &Seen) -> Vec<Condition> {
    if let Some(trouble) = &seen.trouble {
        return vec![Condition { name: "redis", ok: false, message: Some(trouble.clone()) }];
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
    }
    weak.sort();
    weak.dedup();
    let message = (!weak.is_empty()).then(|| weak.join("; "));
    vec![Condition { name: "redis", ok: true, message }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Node;

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
    fn an_unreachable_server_fails() {
        assert!(!of(&Seen::default())[0].ok);
        assert!(!of(&Seen { trouble: Some("no answer".to_owned()), ..Seen::default() })[0].ok);
    }
}
