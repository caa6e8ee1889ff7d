//! What goes to the script that writes documents, and what comes back: pure.

use super::{
    encode,
    group::{Base, Group, Leftovers},
};
use crate::{
    event_log::{
        batch::{Address, Heads, Numbers, front, lifetime, ms, positioned},
        encode::read_position,
    },
    keys,
    scripts::Encoding,
};
use document_store::KEPT_REVISIONS;
use event_log::TopicKey;
use fred::types::Value;
use shared_types::Position;
use std::{collections::HashSet, time::Duration};

/// How long a document may be on its way from the archive before its loading is begun anew.
const LOADING: Duration = Duration::from_secs(20);

/// The keys and arguments of the script.
pub struct Batch {
    /// `KEYS`.
    pub keys: Vec<String>,
    /// `ARGV`.
    pub arguments: Vec<Value>,
    /// The topics in the script's order, and how many events each gets.
    pub topics: Vec<(TopicKey, u64)>,
}

/// Writes out `groups`; `ttl` is how long a document stays that is flushed, `renewed` are topics whose history's
/// lifetime is to be renewed, `heads` where topics stood when this writer last heard of them.
pub fn write(
    address: &Address<'_>,
    groups: &[Group],
    ttl: Duration,
    renewed: &HashSet<TopicKey>,
    heads: &Heads,
) -> Batch {
    let partition = address.partition;
    let mut keys = vec![
        partition.meta(),
        partition.side_effects(),
        partition.writer(address.writer),
        partition.unflushed(),
    ];
    let mut topics = Numbers::default();
    groups.iter().flat_map(|group| &group.events).for_each(|(topic, _)| topics.add(topic));
    let mut arguments = front(address);
    arguments.extend([
        ms(ttl),
        Value::from(format!("?{}:{}", address.writer, address.number)),
        ms(LOADING),
        Value::Integer(KEPT_REVISIONS as i64),
        Value::Integer(topics.all.len() as i64),
    ]);
    let mut counted: Vec<(Option<Position>, u64)> = Vec::with_capacity(topics.all.len());
    for &topic in &topics.all {
        let head = heads.get(topic);
        keys.extend([keys::head(topic), keys::history(topic)]);
        arguments.extend([
            address.announcing.channel(topic).into(),
            lifetime(address, topic, renewed),
            head.as_ref().map(Position::to_string).unwrap_or_default().into(),
        ]);
        counted.push((head, 0));
    }
    let encoding = address.settled.scripts.documents.encoding;
    for group in groups {
        keys.extend([keys::document(partition, &group.key), keys::unflushed(partition, &group.key)]);
        arguments.extend(document(&address.settled.generation, encoding, group));
        for (write, (topic, event)) in group.writes.iter().zip(&group.events) {
            let number = topics.of(topic);
            let (head, count) = &mut counted[number as usize - 1];
            *count += 1;
            arguments.extend([
                Value::Integer(write.revision.revision as i64),
                encode::record(&write.revision).into(),
                Value::Integer(number),
                Value::Bytes(positioned(head.as_ref(), *count, event)),
            ]);
        }
    }
    let counts = counted.into_iter().map(|(_, count)| count);
    let topics = topics.all.into_iter().cloned().zip(counts).collect();
    Batch { keys, arguments, topics }
}

fn document(generation: &str, encoding: Encoding, group: &Group) -> [Value; 6] {
    let expected = group.base.head(generation).unwrap_or_default();
    let is_dropped = matches!(&group.base, Base::Loaded(loaded) if loaded.leftovers == Leftovers::Drop);
    let is_put = !group.writes.is_empty() || matches!(group.base, Base::Loaded(_));
    let (head, value) = match group.after.as_ref().filter(|_| is_put) {
        Some(document) => {
            let head = encode::head(generation, document);
            let value = encode::value(encoding, &head, document);
            (head, value)
        }
        None => Default::default(),
    };
    [
        expected.into(),
        if is_dropped { "d" } else { "" }.into(),
        keys::document_name(&group.key).into(),
        head.into(),
        value.into(),
        Value::Integer(group.writes.len() as i64),
    ]
}

/// What became of a group.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// Redis held what was expected, and holds now what was to be written.
    Done,
    /// Redis holds something else, and nothing of the group was written.
    Other {
        /// Its head.
        head: String,
        /// Its value.
        value: String,
    },
    /// Redis held something else when the batch was first sent; its answer to that is lost.
    Unknown,
}

/// The answer to a batch.
#[derive(Debug)]
pub enum Answer {
    /// The generation is another one.
    OtherGeneration,
    /// A later batch came first.
    Overtaken,
    /// The batch was taken.
    Taken {
        /// What became of each group.
        fates: Vec<Fate>,
        /// The partition's last sequence.
        sequence: u64,
        /// Where the topics stand since.
        heads: Vec<Position>,
    },
}

/// Reads the answer to a batch of `count` groups; `None` where it cannot be read.
pub fn read(answer: Value, count: usize) -> Option<Answer> {
    let Value::Array(parts) = answer else { return None };
    let mut parts = parts.into_iter().map(Value::into_string);
    let text = parts.next()??;
    match text.as_str() {
        "G" => return Some(Answer::OtherGeneration),
        "S" => return Some(Answer::Overtaken),
        _ => {}
    }
    let mut lines = text.lines();
    let (sequence, letters) = (lines.next()?.parse().ok()?, lines.next()?);
    let heads = lines.map(read_position).collect::<Option<_>>()?;
    if letters.len() != count {
        return None;
    }
    let fate = |letter| if letter == b'O' { Fate::Done } else { Fate::Unknown };
    let mut fates: Vec<Fate> = letters.bytes().map(fate).collect();
    while let Some(number) = parts.next() {
        let number: usize = number?.parse().ok()?;
        *fates.get_mut(number.checked_sub(1)?)? = Fate::Other { head: parts.next()??, value: parts.next()?? };
    }
    Some(Answer::Taken { fates, sequence, heads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let text = |text: &str| Value::from(text);
        let answer = vec![text("12\nOCC\ne:7\nf:9"), Value::Integer(3), text("g 1"), text("{}")];
        let Some(Answer::Taken { fates, sequence: 12, heads }) = read(Value::Array(answer), 3) else {
            panic!("fates")
        };
        let other = Fate::Other { head: "g 1".to_owned(), value: "{}".to_owned() };
        assert_eq!(fates, [Fate::Done, Fate::Unknown, other]);
        assert_eq!(heads, ["e:7", "f:9"].map(|head| read_position(head).unwrap()));
        assert!(matches!(read(Value::Array(vec![text("G")]), 3), Some(Answer::OtherGeneration)));
        assert!(read(Value::Array(vec![text("12\nO")]), 3).is_none());
    }
}
