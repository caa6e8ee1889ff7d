//! Reads by topic: heads and pages of history.

use super::{PATIENCE, batch, encode, lane::Shore};
use crate::{
    connection::{bounded, linked, on, run_script},
    error::RedisError,
    keys::{self, Partition},
};
use event_log::{HistoryPage, HistoryQuery, LogError, Reach, Start, StoredEvent, TopicKey};
use fred::{interfaces::ClientLike, types::Value};
use shared_types::Position;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// Heads asked for by one script.
const HEADS: usize = 500;
/// Events read at a time.
const CHUNK: usize = 500;
/// How often a read is begun again because a new generation, or epoch, came in between.
const ATTEMPTS: usize = 3;
/// How long to wait before that.
const AGAIN: Duration = Duration::from_millis(20);
/// Pages that a process reads at a time: thousands of clients that come back at once would otherwise queue up hundreds
/// of megabytes of answers on one connection, and the last would be given up before the server had looked at them.
pub const PAGES: usize = 32;
/// How long a page may wait for its turn.
const TURN: Duration = Duration::from_secs(30);

/// The heads of topics; one without an epoch gets one.
pub async fn heads(shore: &Shore, keys: &[TopicKey]) -> Result<HashMap<TopicKey, Position>, LogError> {
    let mut by_partition: BTreeMap<u16, Vec<TopicKey>> = BTreeMap::new();
    for key in keys {
        by_partition.entry(Partition::of(key).0).or_default().push(key.clone());
    }
    let asked = by_partition.iter().flat_map(|(&partition, keys)| {
        keys.chunks(HEADS).map(move |keys| bounded(heads_of(shore, Partition(partition), keys)))
    });
    Ok(futures::future::try_join_all(asked).await?.into_iter().flatten().collect())
}

async fn heads_of(
    shore: &Shore,
    partition: Partition,
    topics: &[TopicKey],
) -> Result<Vec<(TopicKey, Position)>, LogError> {
    let names = || {
        let topics = topics.iter().flat_map(|topic| [keys::head(topic), keys::history(topic)]);
        std::iter::once(partition.meta()).chain(topics).collect::<Vec<_>>()
    };
    let mut last = RedisError::UnknownScript;
    for _ in 0..ATTEMPTS {
        let (link, settled) = (linked(&shore.links, PATIENCE).await?, shore.guard.settled(PATIENCE).await?);
        let arguments = batch::heads(&settled, &shore.settings);
        match run_script(&link.reads, &settled.scripts.heads, partition, names(), arguments).await {
            Ok(Value::Array(heads)) => {
                let heads = heads.iter().map(|head| encode::read_position(&head.as_str()?));
                let heads: Option<Vec<Position>> = heads.collect();
                let heads = heads.ok_or_else(|| LogError::Internal("a head cannot be read".to_owned()))?;
                return Ok(topics.iter().cloned().zip(heads).collect());
            }
            Ok(_) | Err(RedisError::UnknownScript) => shore.guard.doubt(&settled),
            Err(error @ RedisError::Internal(_)) => return Err(error.into()),
            Err(error) => {
                last = error;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    Err(last.into())
}

/// A page of history, as the port describes it.
pub async fn page(shore: Arc<Shore>, key: TopicKey, query: HistoryQuery) -> Result<HistoryPage, LogError> {
    let turn = tokio::time::timeout(TURN, shore.pages.acquire()).await;
    let _turn = turn.map_err(|_| LogError::Unavailable("too many are reading histories".to_owned()))?;
    for _ in 0..ATTEMPTS {
        if let Some(page) = try_page(&shore, &key, &query).await? {
            return Ok(page);
        }
        tokio::time::sleep(AGAIN).await;
    }
    Err(LogError::Unavailable("the topic's history is being replaced".to_owned()))
}

/// The page; `None` where the topic got another epoch meanwhile.
async fn try_page(
    shore: &Shore,
    key: &TopicKey,
    query: &HistoryQuery,
) -> Result<Option<HistoryPage>, LogError> {
    let head = heads(shore, std::slice::from_ref(key)).await?.remove(key);
    let head = head.ok_or_else(|| LogError::Internal("no head for a topic".to_owned()))?;
    let until = query.until.unwrap_or(head.offset).min(head.offset);
    let limit = query.limit;
    let (after, reach) = match &query.start {
        Start::Latest => (until.saturating_sub(limit.events as u64), Reach::Connected),
        Start::After(position) if position.epoch != head.epoch => (0, Reach::OtherEpoch),
        Start::After(position) if position.offset > head.offset => (head.offset, Reach::BeyondHead),
        Start::After(position) => (position.offset, Reach::Connected),
    };
    if after >= until {
        return Ok(Some(HistoryPage { reach, head, events: Vec::new() }));
    }
    let direction = if matches!(query.start, Start::Latest) { Direction::Back } else { Direction::Forward };
    let mut reading = Reading { shore, key, from: after + 1, until, direction };
    let mut events = reading.read(limit.events, limit.bytes).await?;
    if events.iter().any(|event| event.position.epoch != head.epoch) {
        return Ok(None);
    }
    if direction == Direction::Back {
        events.reverse();
    }
    let connected = events.first().is_some_and(|event| event.position.offset == after + 1);
    let reach = match (reach, direction) {
        (Reach::Connected, Direction::Forward) if !connected => Reach::Truncated,
        (reach, _) => reach,
    };
    Ok(Some(HistoryPage { reach, head, events }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Back,
}

/// A part of a topic's history that is read chunk by chunk.
struct Reading<'a> {
    shore: &'a Shore,
    key: &'a TopicKey,
    from: u64,
    until: u64,
    direction: Direction,
}

impl Reading<'_> {
    async fn read(&mut self, events: usize, bytes: usize) -> Result<Vec<Arc<StoredEvent>>, LogError> {
        let (mut page, mut size): (Vec<Arc<StoredEvent>>, usize) = (Vec::new(), 0);
        while page.len() < events && self.from <= self.until {
            let wanted = CHUNK.min(events - page.len());
            let chunk = self.chunk(wanted).await?;
            let is_last = chunk.len() < wanted;
            for event in chunk {
                size = size.saturating_add(event.size());
                if !page.is_empty() && size > bytes {
                    return Ok(page);
                }
                self.pass(event.position.offset);
                page.push(event);
            }
            if is_last {
                break;
            }
        }
        Ok(page)
    }

    fn pass(&mut self, offset: u64) {
        match self.direction {
            Direction::Forward => self.from = offset + 1,
            Direction::Back => self.until = offset.saturating_sub(1),
        }
    }

    async fn chunk(&self, count: usize) -> Result<Vec<Arc<StoredEvent>>, LogError> {
        let link = linked(&self.shore.links, PATIENCE).await?;
        let (from, until) = (self.from.to_string(), self.until.to_string());
        let (command, first, last) = match self.direction {
            Direction::Forward => ("XRANGE", from, until),
            Direction::Back => ("XREVRANGE", until, from),
        };
        let asked = vec![keys::history(self.key), first, last, "COUNT".to_owned(), count.to_string()];
        let found: Value =
            link.reads.custom(on(Partition::of(self.key), command), asked).await.map_err(RedisError::from)?;
        entries(found)?
            .into_iter()
            .map(|(_, text)| encode::decode_for(self.key, &text).map(Arc::new))
            .collect()
    }
}

/// The entries of a stream as a range answers them: (id, the only field's value).
///
/// # Errors
/// `Internal` where the answer is something else.
pub fn entries(found: Value) -> Result<Vec<(String, String)>, LogError> {
    let read = || {
        let Value::Array(found) = found else { return None };
        found.into_iter().map(entry).collect()
    };
    read().ok_or_else(|| LogError::Internal("a stream cannot be read".to_owned()))
}

fn entry(entry: Value) -> Option<(String, String)> {
    let Value::Array(parts) = entry else { return None };
    let [id, Value::Array(fields)] = <[Value; 2]>::try_from(parts).ok()? else { return None };
    Some((id.into_string()?, fields.into_iter().nth(1)?.into_string()?))
}
