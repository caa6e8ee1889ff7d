//! Where a stream stands: the positions of all its topics, as one opaque text.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use shared_types::{Position, Problem, TopicName};
use std::{collections::BTreeMap, fmt::Write as _};

/// The longest cursor that is read, in bytes: 1,000 topics of the longest name fit.
const MAX_BYTES: usize = 512 << 10;

/// The positions of a stream's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<TopicName, Position>);

impl Cursor {
    /// Reads what [`Cursor::encode`] wrote.
    ///
    /// # Errors
    /// `INVALID_CURSOR` for anything else.
    pub fn decode(text: &str) -> Result<Self, Problem> {
        let problem = || Problem {
            code: "INVALID_CURSOR",
            ..Problem::field("since", "must be the id of an event of such a stream")
        };
        if text.len() > MAX_BYTES {
            return Err(problem());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| problem())?;
        let plain = String::from_utf8(bytes).map_err(|_| problem())?;
        let mut positions = BTreeMap::new();
        for line in plain.lines() {
            let (topic, position) = line.split_once(' ').ok_or_else(problem)?;
            let topic = TopicName::parse(topic).map_err(|_| problem())?;
            positions.insert(topic, position.parse().map_err(|_| problem())?);
        }
        Ok(Self(positions))
    }

    /// The text that clients give back.
    pub fn encode(&self) -> String {
        let mut plain = String::new();
        for (topic, position) in &self.0 {
            let _ = writeln!(plain, "{topic} {position}");
        }
        URL_SAFE_NO_PAD.encode(plain)
    }

    /// Where a topic stands.
    pub fn get(&self, topic: &TopicName) -> Option<&Position> {
        self.0.get(topic)
    }

    /// Moves a topic.
    pub fn set(&mut self, topic: TopicName, position: Position) {
        self.0.insert(topic, position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let mut cursor = Cursor::default();
        cursor.set(TopicName::parse("a.b").expect("valid"), Position::new("e1", 7));
        cursor.set(TopicName::parse("chat:x").expect("valid"), Position::new("e2", 0));
        assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        for bad in ["%", "YQ", "YSBi", "a b:1"] {
            assert_eq!(Cursor::decode(bad).expect_err(bad).code, "INVALID_CURSOR");
        }
    }
}
