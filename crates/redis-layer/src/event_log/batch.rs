//! What goes to the append script and what comes back: pure.

use super::encode;
use crate::{
    generation::Settled,
    keys::{self, Announcing, Partition},
    settings::RedisSettings,
};
use ahash::AHashMap;
use bytes::Bytes;
use event_log::{Entry, Identity, LogError, Outcome, TopicKey};
use fred::types::Value;
use sha2::{Digest, Sha256};
use shared_types::{EventId, Position};
use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    time::Duration,
};

/// How much longer than its history a topic's position is kept.
const POSITION: Duration = Duration::from_secs(24 * 3600);
/// A history lives this much longer than asked, so that its lifetime need not be renewed with every event.
pub const SLACK: Duration = Duration::from_secs(120);

/// An entry as the script takes it.
pub struct Prepared {
    /// Whose topic.
    pub key: TopicKey,
    /// Its id.
    pub id: EventId,
    /// The encoded event.
    pub event: Bytes,
    /// How a repeat is recognized.
    pub identity: Mark,
}

/// How a repeat is recognized, in the script's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Not at all.
    Unique,
    /// By a key, which holds the fingerprint of the content.
    Keyed {
        /// The key.
        key: String,
        /// 32 hexadecimal digits.
        fingerprint: String,
    },
    /// By a position that only grows.
    Positioned {
        /// The source.
        source: String,
        /// The leader's term.
        term: u64,
        /// Text whose order is the positions' order under every collation: hexadecimal digits of equal length, then
        /// those of the mapping.
        at: String,
    },
}

impl Prepared {
    /// Encodes an entry.
    pub fn new(entry: &Entry) -> Self {
        let identity = match &entry.identity {
            Identity::Unique => Mark::Unique,
            Identity::Keyed { producer } => Mark::Keyed {
                key: keys::publisher_id(&entry.key, producer, entry.id.as_str()),
                fingerprint: fingerprint(entry),
            },
            Identity::Positioned { source, term, at } => Mark::Positioned {
                source: source.to_string(),
                term: *term,
                at: format!("{:016x}{:016x}{}", at.lsn, at.ordinal, hex::encode(at.mapping.as_str())),
            },
        };
        Self { key: entry.key.clone(), id: entry.id.clone(), event: encode::encode(entry), identity }
    }
}

/// Hash of what must be the same when an id is used again.
fn fingerprint(entry: &Entry) -> String {
    let mut hash = Sha256::new();
    hash.update(entry.kind.as_bytes());
    hash.update([0]);
    hash.update(entry.payload.as_str());
    hex::encode(&hash.finalize()[..16])
}

/// Refuses a call that uses one id for two contents.
///
/// # Errors
/// `IdConflict`.
pub fn check(entries: &[Prepared]) -> Result<(), LogError> {
    let mut within: HashMap<&str, &str> = HashMap::new();
    for entry in entries {
        if let Mark::Keyed { key, fingerprint } = &entry.identity
            && within.insert(key, fingerprint).is_some_and(|other| other != fingerprint)
        {
            return Err(LogError::IdConflict { id: entry.id.to_string() });
        }
    }
    Ok(())
}

/// Where a batch goes and under what name.
pub struct Address<'a> {
    /// The partition.
    pub partition: Partition,
    /// The writer's name.
    pub writer: &'a str,
    /// The batch's number, growing.
    pub number: u64,
    /// The generation.
    pub settled: &'a Settled,
    /// How live readers are reached.
    pub announcing: Announcing,
    /// What is kept how long.
    pub settings: &'a RedisSettings,
    /// Topics whose history has a length of its own.
    pub own: &'a HashMap<TopicKey, Duration>,
    /// Unix milliseconds.
    pub now_ms: i64,
}

/// Topics whose heads a writer remembers; beyond that it begins anew.
const KNOWN_HEADS: usize = 4096;

/// Where topics stand, as far as a writer knows: a guess, which the scripts check.
#[derive(Default)]
pub struct Heads {
    /// As last heard.
    heard: AHashMap<TopicKey, Position>,
    /// Events that are under way.
    sent: AHashMap<TopicKey, u64>,
}

impl Heads {
    /// Where this one will stand when what is under way has come.
    pub fn get(&self, topic: &TopicKey) -> Option<Position> {
        let Position { epoch, offset } = self.heard.get(topic)?;
        let sent = self.sent.get(topic).copied().unwrap_or_default();
        Some(Position { epoch: epoch.clone(), offset: offset + sent })
    }

    /// So many events of these topics are under way.
    pub fn send(&mut self, events: &[(TopicKey, u64)]) {
        events.iter().for_each(|(topic, count)| *self.sent.entry(topic.clone()).or_default() += count);
    }

    /// What became of them is known, or never will be.
    pub fn settle(&mut self, events: &[(TopicKey, u64)]) {
        for (topic, count) in events {
            if let Some(sent) = self.sent.get_mut(topic) {
                *sent = sent.saturating_sub(*count);
            }
        }
        self.sent.retain(|_, sent| *sent > 0);
    }

    /// Takes what the writer heard.
    pub fn learn(&mut self, heads: impl IntoIterator<Item = (TopicKey, Position)>) {
        if self.heard.len() > KNOWN_HEADS {
            self.heard.clear();
        }
        self.heard.extend(heads);
    }
}

/// Which of the append scripts a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing of it is to be recognized.
    Plain,
    /// Repeats are to be recognized.
    Marked,
}

/// The keys and arguments of an append script.
pub struct Batch {
    /// Which script.
    pub kind: Kind,
    /// `KEYS`.
    pub keys: Vec<String>,
    /// `ARGV`.
    pub arguments: Vec<Value>,
    /// The topics in the script's order.
    pub topics: Vec<TopicKey>,
}

/// Writes out `requests`; `renewed` are topics whose history's lifetime is to be renewed, `heads` where topics stood when
/// this writer last heard of them.
pub fn write(
    address: &Address<'_>,
    requests: &[&[Prepared]],
    renewed: &HashSet<TopicKey>,
    heads: &Heads,
) -> Batch {
    let entries = || requests.iter().copied().flatten();
    let kind = if entries().all(|entry| entry.identity == Mark::Unique) { Kind::Plain } else { Kind::Marked };
    let mut batch = Batch { kind, keys: Vec::new(), arguments: front(address), topics: Vec::new() };
    let partition = address.partition;
    batch.keys.extend([partition.meta(), partition.side_effects(), partition.writer(address.writer)]);
    match kind {
        Kind::Plain => write_plain(&mut batch, address, entries(), renewed, heads),
        Kind::Marked => write_marked(&mut batch, address, requests, renewed),
    }
    batch
}

/// What both scripts are told first.
pub fn front(address: &Address<'_>) -> Vec<Value> {
    let history = address.settings.history;
    let longest = address.own.values().copied().max().unwrap_or_default().max(history);
    vec![
        text(&address.settled.generation),
        format!("{:016}", address.number).into(),
        text(&epoch_suffix()),
        Value::Integer(address.now_ms),
        ms(longest + POSITION),
        ms(history + SLACK),
        text(address.announcing.command()),
    ]
}

/// Topic by topic: order holds within topics only.
fn write_plain<'a>(
    batch: &mut Batch,
    address: &Address<'_>,
    entries: impl Iterator<Item = &'a Prepared>,
    renewed: &HashSet<TopicKey>,
    heads: &Heads,
) {
    let mut numbers: HashMap<&TopicKey, usize> = HashMap::new();
    let mut events: Vec<(&TopicKey, Vec<&Bytes>)> = Vec::new();
    for entry in entries {
        let number = *numbers.entry(&entry.key).or_insert_with(|| {
            events.push((&entry.key, Vec::new()));
            events.len() - 1
        });
        events[number].1.push(&entry.event);
    }
    for (topic, events) in events {
        let head = heads.get(topic);
        batch.keys.extend([keys::head(topic), keys::history(topic)]);
        batch.arguments.extend([
            address.announcing.channel(topic).into(),
            lifetime(address, topic, renewed),
            head.as_ref().map(Position::to_string).unwrap_or_default().into(),
            Value::Integer(events.len() as i64),
        ]);
        let events = events.into_iter().zip(1..);
        batch.arguments.extend(events.map(|(event, n)| Value::Bytes(positioned(head.as_ref(), n, event))));
        batch.topics.push(topic.clone());
    }
}

/// The `n`th event behind `head` with its position, so that the script need not write that in front; the event alone
/// where no head is known.
pub fn positioned(head: Option<&Position>, n: u64, event: &Bytes) -> Bytes {
    let Some(Position { epoch, offset }) = head else { return event.clone() };
    let mut out = Vec::with_capacity(epoch.len() + 21 + event.len());
    // Writing to memory does not fail.
    let _ = write!(out, "{epoch}:{}", offset + n);
    out.extend_from_slice(event);
    out.into()
}

/// Request by request: each is appended as a whole or not at all.
fn write_marked(
    batch: &mut Batch,
    address: &Address<'_>,
    requests: &[&[Prepared]],
    renewed: &HashSet<TopicKey>,
) {
    let (mut topics, mut ids) = (Numbers::default(), Numbers::default());
    for entry in requests.iter().copied().flatten() {
        topics.add(&entry.key);
        if let Mark::Keyed { key, .. } = &entry.identity {
            ids.add(key);
        }
    }
    batch.keys.push(address.partition.sources());
    for topic in &topics.all {
        batch.keys.extend([keys::head(topic), keys::history(topic)]);
    }
    let before_ids = batch.keys.len() as i64;
    batch.keys.extend(ids.all.iter().map(|id| (*id).clone()));
    batch.arguments.extend([ms(address.settings.ids), Value::Integer(topics.all.len() as i64)]);
    for topic in &topics.all {
        batch.arguments.push(address.announcing.channel(topic).into());
        batch.arguments.push(lifetime(address, topic, renewed));
    }
    for entries in requests {
        batch.arguments.push(Value::Integer(entries.len() as i64));
        for entry in *entries {
            batch
                .arguments
                .extend([Value::Integer(topics.of(&entry.key)), Value::Bytes(entry.event.clone())]);
            batch.arguments.extend(match &entry.identity {
                Mark::Unique => [text("u"), text(""), text("")],
                Mark::Keyed { key, fingerprint } => {
                    [text("k"), Value::Integer(before_ids + ids.of(key)), text(fingerprint)]
                }
                Mark::Positioned { source, term, at } => {
                    [text("p"), text(source), format!("{term} {at}").into()]
                }
            });
        }
    }
    batch.topics = topics.all.into_iter().cloned().collect();
}

/// How long a history lives from now on, where that is to be said.
pub fn lifetime(address: &Address<'_>, topic: &TopicKey, renewed: &HashSet<TopicKey>) -> Value {
    if !renewed.contains(topic) {
        return Value::Integer(0);
    }
    ms(address.own.get(topic).copied().unwrap_or(address.settings.history) + SLACK)
}

/// Numbers what it is given, from 1, each once.
pub struct Numbers<'a, T> {
    /// Them, in order.
    pub all: Vec<&'a T>,
    numbers: HashMap<&'a T, i64>,
}

impl<T> Default for Numbers<'_, T> {
    fn default() -> Self {
        Self { all: Vec::new(), numbers: HashMap::new() }
    }
}

impl<'a, T: Eq + std::hash::Hash> Numbers<'a, T> {
    /// Numbers a value that has no number yet.
    pub fn add(&mut self, value: &'a T) {
        let next = self.all.len() as i64 + 1;
        if *self.numbers.entry(value).or_insert(next) == next {
            self.all.push(value);
        }
    }

    /// The number of one that was added.
    pub fn of(&self, value: &T) -> i64 {
        self.numbers[value]
    }
}

/// A duration as scripts take it.
pub fn ms(duration: Duration) -> Value {
    Value::Integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// What makes a topic's epoch another one than before, though the generation is the same.
fn epoch_suffix() -> String {
    format!("{:012x}", rand::random::<u64>() >> 16)
}

fn text(text: &str) -> Value {
    Value::from(text)
}

/// The arguments by which heads are asked for.
pub fn heads(settled: &Settled, settings: &RedisSettings) -> Vec<Value> {
    vec![text(&settled.generation), text(&epoch_suffix()), ms(settings.history + POSITION)]
}

/// What became of a batch.
#[derive(Debug)]
pub struct Answer {
    /// For each request what became of its entries.
    pub outcomes: Vec<Result<Vec<Outcome>, LogError>>,
    /// The partition's last sequence.
    pub sequence: u64,
    /// How many events were appended.
    pub appended: usize,
    /// Where its topics stand since.
    pub heads: AHashMap<TopicKey, Position>,
}

/// Reads the script's answer to a batch of `requests`.
///
/// # Errors
/// `Internal` where it cannot be read.
pub fn read(answer: &str, topics: &[TopicKey], requests: &[&[Prepared]]) -> Result<Answer, LogError> {
    let unreadable = || LogError::Internal("the answer to an append cannot be read".to_owned());
    let mut lines = answer.lines();
    let mut heads = AHashMap::with_capacity(topics.len());
    for topic in topics {
        heads.insert(topic.clone(), lines.next().and_then(encode::read_position).ok_or_else(unreadable)?);
    }
    let sequence = lines.next().and_then(|line| line.parse().ok()).ok_or_else(unreadable)?;
    let entries: Vec<&Prepared> = requests.iter().copied().flatten().collect();
    let exceptions = Exceptions::read(lines, &entries).ok_or_else(unreadable)?;
    let (mut outcomes, mut appended, mut number) = (Vec::with_capacity(requests.len()), 0, 0);
    for (request, entries) in requests.iter().enumerate() {
        let first = number;
        number += entries.len();
        if let Some(error) = exceptions.refused.get(&request) {
            outcomes.push(Err(error.clone()));
            continue;
        }
        let each =
            entries.iter().zip(first..).map(|(entry, number)| match exceptions.repeated.get(&number) {
                Some(position) => Some(Outcome::Repeated(position.clone())),
                None => {
                    let head = heads.get_mut(&entry.key)?;
                    head.offset += 1;
                    appended += 1;
                    Some(Outcome::Appended(head.clone()))
                }
            });
        outcomes.push(Ok(each.collect::<Option<_>>().ok_or_else(unreadable)?));
    }
    Ok(Answer { outcomes, sequence, appended, heads })
}

#[derive(Default)]
struct Exceptions {
    repeated: HashMap<usize, Option<Position>>,
    refused: HashMap<usize, LogError>,
}

impl Exceptions {
    fn read<'a>(lines: impl Iterator<Item = &'a str>, entries: &[&Prepared]) -> Option<Self> {
        let mut found = Self::default();
        for line in lines {
            let mut words = line.split(' ');
            let (kind, first) = (words.next()?, words.next()?.parse::<usize>().ok()?);
            if kind == "R" {
                found.repeated.insert(first, words.next().and_then(encode::read_position));
                continue;
            }
            let entry = entries.get(words.next()?.parse::<usize>().ok()?)?;
            let error = match &entry.identity {
                Mark::Positioned { source, term, .. } => {
                    let theirs = words.next()?.parse().ok()?;
                    LogError::Fenced { source_name: source.clone(), ours: *term, theirs }
                }
                _ => LogError::IdConflict { id: entry.id.to_string() },
            };
            found.refused.insert(first, error);
        }
        Some(found)
    }
}
