//! What a client asks of a stream, read from the query.

use crate::gateway::{Handshake, cursor::Cursor, request::channels::channel_name};
use axum::http::HeaderMap;
use serde_json::Value;
use shared_types::{Filter, Problem, ReturnMode, TopicName};
use std::time::Duration;

/// How often streams of channels of each type say that they are alive; `system` counts for all other names.
const HEARTBEATS: [(&str, Duration); 5] = [
    ("project", Duration::from_secs(30)),
    ("session", Duration::from_secs(30)),
    ("organization", Duration::from_secs(60)),
    ("user", Duration::from_secs(30)),
    (SYSTEM, Duration::from_secs(60)),
];
const SYSTEM: &str = "system";

/// What a client asks of a stream.
pub struct Wish {
    /// Events of these.
    pub topics: Vec<TopicName>,
    /// Messages in these.
    pub channels: Vec<TopicName>,
    /// Of all topics, what passes it.
    pub filter: Filter,
    /// What events of documents carry.
    pub mode: ReturnMode,
    /// Where to go on.
    pub cursor: Cursor,
}

impl Wish {
    /// Reads the query, and `Last-Event-ID`; at most `most` topics.
    ///
    /// # Errors
    /// Naming the parameter and the rule.
    pub fn read(handshake: &Handshake, headers: &HeaderMap, most: usize) -> Result<Self, Problem> {
        let mut wish = Self {
            topics: Vec::new(),
            channels: Vec::new(),
            filter: Filter::default(),
            mode: ReturnMode::default(),
            cursor: Cursor::default(),
        };
        let mut since = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        for (at, (name, value)) in handshake.query.iter().enumerate() {
            let may_repeat = matches!(name.as_str(), "topic" | "channel");
            if !may_repeat && handshake.query[..at].iter().any(|(other, _)| other == name) {
                return Err(Problem::field(name.as_str(), "comes twice"));
            }
            match name.as_str() {
                "topic" => {
                    let topic = TopicName::parse(value)?;
                    if !wish.topics.contains(&topic) {
                        wish.topics.push(topic);
                    }
                }
                "channel" => {
                    let channel = channel_name(value)?;
                    if !wish.channels.contains(&channel) {
                        wish.channels.push(channel);
                    }
                }
                "filter" => {
                    let filter: Value = serde_json::from_str(value)
                        .map_err(|error| Problem::field("filter", format!("must be JSON: {error}")))?;
                    wish.filter = Filter::parse(&filter)?;
                }
                "returnMode" => wish.mode = value.parse()?,
                "since" => since = Some(value.clone()),
                "token" => {}
                other => return Err(Problem::field(other, "is not known here")),
            }
        }
        if wish.topics.is_empty() && wish.channels.is_empty() {
            return Err(Problem::field("topic", "a topic or a channel is required, once or more"));
        }
        if wish.topics.len() > most {
            return Err(Problem::limit(format!("at most {most} topics a stream")));
        }
        if let Some(since) = since.filter(|since| !since.is_empty()) {
            wish.cursor = Cursor::decode(&since)?;
        }
        Ok(wish)
    }

    /// How often the stream says that it is alive.
    pub fn heartbeat(&self) -> Duration {
        heartbeat(self.topics.iter().chain(&self.channels))
    }
}

/// How often a stream of `names` says that it is alive: as often as the type with the shortest time asks.
fn heartbeat<'n>(names: impl Iterator<Item = &'n TopicName>) -> Duration {
    let of = |wanted: &str| HEARTBEATS.iter().find(|(kind, _)| *kind == wanted).map(|(_, every)| *every);
    let each = names.filter_map(|name| {
        let kind = name.as_str().split_once(':').map_or("", |(kind, _)| kind);
        of(kind).or_else(|| of(SYSTEM))
    });
    each.min().unwrap_or(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_heartbeat_of_all_types_holds() {
        let beat = |names: &[&str]| {
            let names: Vec<TopicName> = names.iter().map(|name| TopicName::from_stored(name)).collect();
            heartbeat(names.iter()).as_secs()
        };
        assert_eq!(beat(&["project:7"]), 30);
        assert_eq!(beat(&["chat:7", "organization:1"]), 60);
        assert_eq!(beat(&["organization:7", "user:1"]), 30);
        for other in ["order.updated", "chat:room1", "project.7", "project"] {
            assert_eq!(beat(&[other]), beat(&["system:x"]), "{other}");
        }
    }
}
