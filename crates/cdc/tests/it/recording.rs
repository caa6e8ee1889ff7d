//! An event log in memory that keeps positions as a real one does, and fails on demand.

use event_log::{
    Entry, EventLog, HistoryPage, HistoryQuery, Identity, LiveReader, LogError, Message, Outcome,
    SideEffectReader, SourcePosition, TopicKey,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use shared_types::Position;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;

#[derive(Default)]
struct Recorded {
    entries: Vec<Entry>,
    batches: Vec<usize>,
    sources: HashMap<Arc<str>, (u64, SourcePosition)>,
    failures: usize,
    is_full: bool,
    begun: Vec<TopicKey>,
}

/// Records what is appended.
pub struct RecordingLog {
    recorded: Arc<Mutex<Recorded>>,
    gate: Arc<Semaphore>,
}

impl RecordingLog {
    /// One that appends at once.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { recorded: Arc::default(), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) })
    }

    /// One whose appends wait for [`RecordingLog::let_through`].
    #[allow(dead_code, reason = "not every test program holds appends back")]
    pub fn gated() -> Arc<Self> {
        Arc::new(Self { recorded: Arc::default(), gate: Arc::new(Semaphore::new(0)) })
    }

    /// Lets `count` appends through.
    #[allow(dead_code, reason = "not every test program holds appends back")]
    pub fn let_through(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// The next `count` appends fail after they may or may not have been committed: every other is.
    #[allow(dead_code, reason = "not every test program makes appends fail")]
    pub fn fail_next(&self, count: usize) {
        self.recorded.lock().failures = count;
    }

    /// Whether appends are refused from now on, because the log is full.
    #[allow(dead_code, reason = "not every test program fills the log")]
    pub fn set_full(&self, is_full: bool) {
        self.recorded.lock().is_full = is_full;
    }

    /// The topics that were given a new epoch, in order.
    #[allow(dead_code, reason = "not every test program loses a slot")]
    pub fn begun(&self) -> Vec<TopicKey> {
        self.recorded.lock().begun.clone()
    }

    /// What was appended, in order.
    #[allow(dead_code, reason = "not every test program looks at events")]
    pub fn entries(&self) -> Vec<Entry> {
        self.recorded.lock().entries.clone()
    }

    /// The sizes of the appends.
    #[allow(dead_code, reason = "not every test program looks at sizes")]
    pub fn batches(&self) -> Vec<usize> {
        self.recorded.lock().batches.clone()
    }
}

impl Recorded {
    fn append(&mut self, entries: Vec<Entry>) -> Result<Vec<Outcome>, LogError> {
        if self.is_full {
            return Err(LogError::BacklogFull);
        }
        self.batches.push(entries.len());
        let fails = self.failures > 0;
        self.failures = self.failures.saturating_sub(1);
        if fails && self.failures.is_multiple_of(2) {
            return Err(LogError::Unavailable("told to fail".to_owned()));
        }
        let mut outcomes = Vec::new();
        for entry in entries {
            let Identity::Positioned { source, term, at } = &entry.identity else {
                return Err(LogError::Internal("a change without a position".to_owned()));
            };
            if let Some((theirs, highest)) = self.sources.get(source) {
                if theirs > term {
                    return Err(LogError::Fenced {
                        source_name: source.to_string(),
                        ours: *term,
                        theirs: *theirs,
                    });
                }
                if at <= highest {
                    outcomes.push(Outcome::Repeated(None));
                    continue;
                }
            }
            self.sources.insert(source.clone(), (*term, at.clone()));
            self.entries.push(entry);
            outcomes.push(Outcome::Appended(Position::new("epoch", self.entries.len() as u64)));
        }
        if fails {
            Err(LogError::Unavailable("told to fail after the commit".to_owned()))
        } else {
            Ok(outcomes)
        }
    }
}

impl EventLog for RecordingLog {
    fn append(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<Vec<Outcome>, LogError>> {
        let (recorded, gate) = (self.recorded.clone(), self.gate.clone());
        Box::pin(async move {
            let permit = gate.acquire_owned().await.map_err(|e| LogError::Internal(e.to_string()))?;
            permit.forget();
            recorded.lock().append(entries)
        })
    }

    fn history(&self, _: &TopicKey, _: HistoryQuery) -> BoxFuture<'static, Result<HistoryPage, LogError>> {
        Box::pin(async { Err(LogError::Internal("it only records".to_owned())) })
    }

    fn head(&self, _: &TopicKey) -> BoxFuture<'static, Result<Position, LogError>> {
        Box::pin(async { Err(LogError::Internal("it only records".to_owned())) })
    }

    fn announce(&self, _: Vec<Message>) -> BoxFuture<'static, Result<(), LogError>> {
        unreachable!("change data capture announces nothing")
    }

    fn begin_epochs(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        let begun = keys.iter().map(|_| Position::new("another", 0)).collect();
        self.recorded.lock().begun.extend(keys);
        Box::pin(async { Ok(begun) })
    }

    fn live(&self) -> LiveReader {
        unreachable!("change data capture reads nothing")
    }

    fn side_effects(&self, _: &str) -> BoxFuture<'static, Result<Arc<dyn SideEffectReader>, LogError>> {
        Box::pin(async { Err(LogError::Internal("it only records".to_owned())) })
    }

    fn partitions(&self) -> u16 {
        1
    }
}
