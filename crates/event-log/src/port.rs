//! The interface that an event log offers.

use crate::{Entry, LogError, Message, Outcome, StoredEvent, TopicKey};
use futures::future::BoxFuture;
use shared_types::Position;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Which part of a topic's history to read.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// Where to begin.
    pub start: Start,
    /// The last offset that is wanted; the head where absent.
    pub until: Option<u64>,
    /// How much at most.
    pub limit: PageLimit,
}

/// Where a page of history begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// Behind this position.
    After(Position),
    /// So that the page ends at the head (or `until`).
    Latest,
}

/// The size of a page: it ends before the event with which it would exceed either, but holds at least one.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Events.
    pub events: usize,
    /// Bytes of events, by [`StoredEvent::size`].
    pub bytes: usize,
}

/// Whether a page connects to the position that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing lies between the position and the page.
    Connected,
    /// Events behind the position are no longer kept; the page begins at the oldest kept.
    Truncated,
    /// The position's epoch is not the topic's; the page begins at the oldest kept.
    OtherEpoch,
    /// The position lies beyond the head.
    BeyondHead,
}

/// A page of history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// Whether it connects.
    pub reach: Reach,
    /// The topic's head when the page was read.
    pub head: Position,
    /// The events, by offset.
    pub events: Vec<Arc<StoredEvent>>,
}

/// The live events of watched topics; one a process.
///
/// Events of one topic come in order of their offsets. The channel is bounded: while nobody takes, the reader
/// waits and reads on by position afterwards.
pub struct LiveReader {
    /// Says which topics are wanted.
    pub watch: Arc<dyn LiveWatch>,
    /// Their events, in batches.
    pub events: mpsc::Receiver<Vec<Arc<StoredEvent>>>,
    /// What is announced under their keys. Those that find no room are dropped and counted.
    pub messages: mpsc::Receiver<Message>,
    /// Topics that are followed and stand in another epoch than before, though no event of it may have come: whoever
    /// holds a position of them asks the history. Said again where it is not known whether it was heard.
    pub renewed: mpsc::Receiver<TopicKey>,
}

/// How many renewed topics may wait for whoever reads them; what finds no room is said later.
pub const WAITING_RENEWED: usize = 4_096;

/// How many messages may wait for whoever reads them.
pub const WAITING_MESSAGES: usize = 16_384;

/// Which topics a live reader follows.
pub trait LiveWatch: Send + Sync {
    /// Begins to follow `keys` and answers each one's head: every event behind it will come.
    ///
    /// Events up to it may come too. A topic without any event gets an epoch and stands at offset 0.
    fn watch(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>>;

    /// No longer follows `keys`; events that are on their way may still come.
    fn unwatch(&self, keys: Vec<TopicKey>);

    /// Asks for a look now, because somebody knows of a newer event than has come.
    fn nudge(&self, key: &TopicKey);
}

/// An entry of the side-effect log.
#[derive(Clone, Debug)]
pub struct SideEffect {
    /// The partition.
    pub partition: u16,
    /// Its number within the partition, growing by 1.
    pub sequence: u64,
    /// The event.
    pub event: Arc<StoredEvent>,
}

/// One consumer group's reading of everything that is appended, at least once.
pub trait SideEffectReader: Send + Sync {
    /// The next entries of `partition` behind the acknowledged position, at most `limit`.
    fn read(&self, partition: u16, limit: usize) -> BoxFuture<'_, Result<Vec<SideEffect>, LogError>>;

    /// Everything up to `sequence` of `partition` is done; it is not read again.
    fn acknowledge(&self, partition: u16, sequence: u64) -> BoxFuture<'_, Result<(), LogError>>;
}

/// The one log that all producers append to and everything else reads.
pub trait EventLog: Send + Sync {
    /// Appends `entries`, all or none, each topic's in the order given.
    ///
    /// Calls made one after the other by one task keep their order, provided each future is polled once before
    /// the next call. Resolved means durable. Dropping the future does not undo the append.
    ///
    /// # Errors
    /// See [`LogError`]; after `Unavailable` the caller may repeat under the same identities.
    fn append(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<Vec<Outcome>, LogError>>;

    /// Says `messages` to whoever follows their keys now, in all processes; nothing is kept. Those of one process
    /// under one key come in order. Resolved means on their way: who does not listen at this moment misses them.
    ///
    /// # Errors
    /// `Unavailable` where it is not known whether anybody hears them.
    fn announce(&self, messages: Vec<Message>) -> BoxFuture<'static, Result<(), LogError>>;

    /// A page of one topic's history. A topic without any event gets an epoch and stands at offset 0.
    fn history(
        &self,
        key: &TopicKey,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, LogError>>;

    /// The topic's head. A topic without any event gets an epoch and stands at offset 0.
    fn head(&self, key: &TopicKey) -> BoxFuture<'static, Result<Position, LogError>>;

    /// Gives `keys` a new epoch each, at offset 0, and answers their heads: something is missing between what they hold
    /// and what will be appended, so that nobody may go on from a position of before. What they held is no longer
    /// history. Live readers of all processes are told.
    ///
    /// # Errors
    /// `Unavailable` where it is not known for how many it was done; it may be repeated.
    fn begin_epochs(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>>;

    /// Begins a live reader, which runs until it is dropped.
    fn live(&self) -> LiveReader;

    /// A consumer group's reader; the group begins at the head when it is first named.
    fn side_effects(&self, group: &str) -> BoxFuture<'static, Result<Arc<dyn SideEffectReader>, LogError>>;

    /// The number of partitions of the side-effect log.
    fn partitions(&self) -> u16;

    /// How the servers are that hold the log, beyond the platform's own database: none where there are no others.
    fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }
}

/// How a server is that holds the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which server: `redis`.
    pub name: &'static str,
    /// Whether it can be used.
    pub ok: bool,
    /// What is missing, or what of its settings can lose data.
    pub message: Option<String>,
}
