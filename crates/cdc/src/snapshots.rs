//! The stream's side of a backfill: what changes between the two watermarks around a chunk, and the chunk without it.
//!
//! A chunk's rows are sent when the stream meets the second watermark, without those whose keys were changed in
//! between: whatever the stream holds of them is newer. A transaction can be in the stream before the first watermark
//! and yet not be seen by the snapshot that the chunk was read in; a chunk that such a transaction was under way for is
//! read again.

use crate::{
    evaluate::{CompiledMapping, Decision},
    pgoutput::Message,
    row::{Cell, OldRow, Relation, RowChange},
    target::chunk::{Keyed, TextRow},
};
use event_log::{Identity, SourcePosition};
use event_router::Routed;
use sha2::{Digest, Sha256};
use shared_types::{
    Draft, EventId, MappingId, Operation, Scope, Source, ids::derived_id, mapping::MappingDefinition,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

/// The prefix of watermarks in the log.
pub(crate) const PREFIX: &str = "realtime_cdc_watermark";
/// How many of the last transactions are remembered.
const REMEMBERED: usize = 65_536;
/// How many keys may change between two watermarks before the chunk is read again.
const MAX_CHANGED: usize = 100_000;

/// What the backfill tells the stream.
pub(crate) enum ToStream {
    /// A chunk's first watermark is about to be written.
    Begin {
        /// What tells its watermarks from all others.
        token: String,
        /// The table with the names of its key's columns.
        keyed: Arc<Keyed>,
    },
    /// The chunk was read, and its second watermark is about to be written.
    Read(Box<ReadChunk>),
}

/// A chunk that was read.
pub(crate) struct ReadChunk {
    pub token: String,
    pub keyed: Arc<Keyed>,
    pub rows: Vec<TextRow>,
    /// Transactions that were under way in its snapshot.
    pub running: Vec<u32>,
    pub destination: Destination,
    pub answer: oneshot::Sender<Verdict>,
}

/// Where the rows of a backfill go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub scope: Scope,
    pub mapping: MappingId,
    pub definition: MappingDefinition,
    /// The backfill's id.
    pub run: String,
    /// The chunk's number.
    pub chunk: u64,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its rows are in the log, or newer ones.
    Sent,
    /// It has to be read again.
    Again,
}

/// A chunk between its watermarks.
struct Open {
    token: String,
    keyed: Arc<Keyed>,
    /// Whether the first watermark has been met, and after how many transactions.
    since: Option<u64>,
    /// The keys that changed since.
    changed: HashSet<Vec<Option<Box<[u8]>>>>,
    /// Whether rows have changed that are not among them.
    untold: bool,
}

/// A chunk whose events wait for their append.
struct Waiting {
    lsn: u64,
    answer: oneshot::Sender<Verdict>,
}

/// The stream's side of backfills.
pub(crate) struct Snapshots {
    inbox: mpsc::Receiver<ToStream>,
    open: Option<Open>,
    read: Option<Box<ReadChunk>>,
    waiting: Option<Waiting>,
    /// The transactions of the stream, and how many there have been.
    transactions: VecDeque<u32>,
    count: u64,
    kind: Arc<str>,
}

impl Snapshots {
    /// None under way.
    pub fn new(inbox: mpsc::Receiver<ToStream>) -> Self {
        Self {
            inbox,
            open: None,
            read: None,
            waiting: None,
            transactions: VecDeque::new(),
            count: 0,
            kind: "database.snapshot".into(),
        }
    }

    /// A transaction begins in the stream.
    pub fn begin(&mut self, xid: u32) {
        if self.transactions.len() == REMEMBERED {
            self.transactions.pop_front();
        }
        self.transactions.push_back(xid);
        self.count += 1;
    }

    /// Whether it looks at row changes now.
    pub fn watches(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.since.is_some())
    }

    /// Looks at a row change of `relation`.
    pub fn row(&mut self, relation: &Relation, message: &Message<'_>) {
        let Some(open) = self.open.as_mut().filter(|open| open.since.is_some()) else { return };
        if relation.table != open.keyed.relation.table || open.untold {
            return;
        }
        let (new, old) = match message {
            Message::Insert { new, .. } => (new.as_slice(), OldRow::None),
            Message::Update { new, old, .. } => (new.as_slice(), old.as_row()),
            Message::Delete { old, .. } => (&[][..], old.as_row()),
            _ => return,
        };
        let old = match old {
            OldRow::Key(cells) | OldRow::Full(cells) => cells,
            OldRow::None => &[],
        };
        for cells in [new, old] {
            if cells.is_empty() {
                continue;
            }
            let part = |(place, _): &(usize, String)| {
                let name = &open.keyed.relation.columns[*place].name;
                match relation.column(name).and_then(|at| cells.get(at)) {
                    Some(Cell::Text(text)) => Some(Some(Box::from(*text))),
                    _ => None,
                }
            };
            match open.keyed.key.iter().map(part).collect::<Option<Vec<_>>>() {
                Some(key) => drop(open.changed.insert(key)),
                // The replica identity is another than the key: which row it is cannot be told.
                None => open.untold = true,
            }
        }
        open.untold |= open.changed.len() > MAX_CHANGED;
    }

    /// Looks at a message of the log; answers the events of a chunk whose second watermark it is.
    pub fn message(&mut self, prefix: &str, content: &[u8], lsn: u64, now_ms: i64, term: u64) -> Vec<Routed> {
        let Some((token, which)) = std::str::from_utf8(content).ok().and_then(|text| text.rsplit_once('/'))
        else {
            return Vec::new();
        };
        if prefix != PREFIX {
            return Vec::new();
        }
        self.listen();
        match which {
            "low" => {
                if let Some(open) = self.open.as_mut().filter(|open| open.token == token) {
                    open.since = Some(self.count);
                }
                Vec::new()
            }
            _ => self.close(token, lsn, now_ms, term),
        }
    }

    /// Takes what the backfill has said. It says it before it writes the watermark concerned.
    fn listen(&mut self) {
        while let Ok(said) = self.inbox.try_recv() {
            match said {
                ToStream::Begin { token, keyed } => {
                    let changed = HashSet::new();
                    self.open = Some(Open { token, keyed, since: None, changed, untold: false });
                }
                ToStream::Read(chunk) => self.read = Some(chunk),
            }
        }
    }

    fn close(&mut self, token: &str, lsn: u64, now_ms: i64, term: u64) -> Vec<Routed> {
        let Some(chunk) = self.read.take_if(|chunk| chunk.token == token) else { return Vec::new() };
        let Some(open) = self.open.take_if(|open| open.token == token) else { return Vec::new() };
        let Some(since) = open.since.filter(|since| !open.untold && !self.unseen(&chunk, *since)) else {
            // Who asked may have gone.
            let _ = chunk.answer.send(Verdict::Again);
            return Vec::new();
        };
        tracing::debug!(chunk = token, transactions = self.count - since, "sending a chunk of a backfill");
        let events = events(&chunk, &open.changed, &self.kind, now_ms, term);
        self.waiting = Some(Waiting { lsn, answer: chunk.answer });
        events
    }

    /// Whether a transaction that the stream held before the first watermark was still under way in the snapshot.
    fn unseen(&self, chunk: &ReadChunk, since: u64) -> bool {
        let after = usize::try_from(self.count - since).unwrap_or(usize::MAX);
        let before = self.transactions.len().saturating_sub(after);
        let positions: HashMap<u32, usize> =
            self.transactions.iter().enumerate().map(|(at, xid)| (*xid, at)).collect();
        chunk.running.iter().any(|xid| positions.get(xid).is_some_and(|at| *at < before))
    }

    /// Everything of transactions before `confirmed` is in the log.
    pub fn confirmed(&mut self, confirmed: u64) {
        self.listen();
        if let Some(waiting) = self.waiting.take_if(|waiting| waiting.lsn < confirmed) {
            // Who asked may have gone.
            let _ = waiting.answer.send(Verdict::Sent);
        }
    }
}

/// The events of a chunk's rows, without those that have changed.
///
/// Their order within the chunk, and so their positions, come from their keys alone: of a chunk of which only a part
/// was appended before its leader died, and which is read again when other rows have changed, the log recognizes
/// exactly that part.
fn events(
    chunk: &ReadChunk,
    changed: &HashSet<Vec<Option<Box<[u8]>>>>,
    kind: &Arc<str>,
    now_ms: i64,
    term: u64,
) -> Vec<Routed> {
    let Destination { scope, mapping, definition, run, chunk: number } = &chunk.destination;
    let relation = &chunk.keyed.relation;
    let compiled = CompiledMapping::new(definition, relation);
    let source: Arc<str> = format!("backfill:{run}").into();
    let mut events = Vec::new();
    for row in &chunk.rows {
        let key: Vec<Option<Box<[u8]>>> =
            chunk.keyed.key.iter().map(|(place, _)| row[*place].clone()).collect();
        if changed.contains(&key) {
            continue;
        }
        let cells: Vec<Cell<'_>> =
            row.iter().map(|text| text.as_deref().map_or(Cell::Null, Cell::Text)).collect();
        let change = RowChange { relation, operation: Operation::Insert, new: &cells, old: OldRow::None };
        let Decision::Fires { payload, metadata } = compiled.snapshot(&change) else { continue };
        let at = SourcePosition { lsn: *number, ordinal: place(&key), mapping: mapping.clone() };
        let draft = Draft {
            topic: definition.topic.clone(),
            source: Source::Database,
            kind: kind.clone(),
            payload,
            id: Some(event_id(run, &key)),
            timestamp_ms: Some(now_ms),
            extra_metadata: metadata,
        };
        let identity = Identity::Positioned { source: source.clone(), term, at };
        events.push(Routed { scope: scope.clone(), draft, identity });
    }
    events.sort_by_key(|event| match &event.identity {
        Identity::Positioned { at, .. } => at.ordinal,
        Identity::Unique | Identity::Keyed { .. } => 0,
    });
    events
}

/// Where a row stands within its chunk, by its key: a number of 63 bits.
fn place(key: &[Option<Box<[u8]>>]) -> u64 {
    let mut hash = Sha256::new();
    for part in key {
        let part = part.as_deref().unwrap_or_default();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first) >> 1
}

/// The same for each (run, key).
fn event_id(run: &str, key: &[Option<Box<[u8]>>]) -> EventId {
    let lengths: Vec<[u8; 8]> =
        key.iter().map(|part| part.as_ref().map_or(u64::MAX, |p| p.len() as u64).to_be_bytes()).collect();
    let mut parts: Vec<&[u8]> = vec![run.as_bytes()];
    for (length, part) in lengths.iter().zip(key) {
        parts.push(length);
        parts.push(part.as_deref().unwrap_or_default());
    }
    EventId::from_stored(derived_id("evt", 0, &parts))
}

#[cfg(test)]
mod tests;
