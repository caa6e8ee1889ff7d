//! A real event log that refuses, or keeps its answers to itself, on demand.

use event_log::{
    Entry, EventLog, HistoryPage, HistoryQuery, LiveReader, LogError, Message, Outcome, SideEffectReader,
    TopicKey,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use shared_types::Position;
use std::sync::Arc;
use tokio::sync::Notify;

/// What befalls an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    Works,
    /// Appends to this topic find the log unavailable, and nothing is appended.
    Refused(String),
    /// Appends to this topic fail in a way that does not pass.
    Broken(String),
    /// Everything is appended, and nobody is told.
    NeverAnswered,
}

/// The log.
pub struct FailingLog {
    log: Arc<dyn EventLog>,
    fate: Mutex<Fate>,
    /// Told when something was appended of which nobody is told.
    pub appended: Arc<Notify>,
}

impl FailingLog {
    pub fn around(log: Arc<dyn EventLog>) -> Arc<Self> {
        Arc::new(Self { log, fate: Mutex::new(Fate::Works), appended: Arc::default() })
    }

    pub fn set(&self, fate: Fate) {
        *self.fate.lock() = fate;
    }
}

impl EventLog for FailingLog {
    fn append(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<Vec<Outcome>, LogError>> {
        let is_of = |topic: &str| entries.iter().any(|entry| entry.key.topic.as_str() == topic);
        match self.fate.lock().clone() {
            Fate::Refused(topic) if is_of(&topic) => {
                Box::pin(async { Err(LogError::Unavailable("refused".to_owned())) })
            }
            Fate::Broken(topic) if is_of(&topic) => {
                Box::pin(async { Err(LogError::Internal("broken".to_owned())) })
            }
            Fate::NeverAnswered => {
                let (appending, appended) = (self.log.append(entries), self.appended.clone());
                Box::pin(async move {
                    appending.await?;
                    appended.notify_one();
                    std::future::pending().await
                })
            }
            _ => self.log.append(entries),
        }
    }

    fn history(
        &self,
        key: &TopicKey,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, LogError>> {
        self.log.history(key, query)
    }

    fn head(&self, key: &TopicKey) -> BoxFuture<'static, Result<Position, LogError>> {
        self.log.head(key)
    }

    fn announce(&self, messages: Vec<Message>) -> BoxFuture<'static, Result<(), LogError>> {
        self.log.announce(messages)
    }

    fn begin_epochs(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        self.log.begin_epochs(keys)
    }

    fn live(&self) -> LiveReader {
        self.log.live()
    }

    fn side_effects(&self, group: &str) -> BoxFuture<'static, Result<Arc<dyn SideEffectReader>, LogError>> {
        self.log.side_effects(group)
    }

    fn partitions(&self) -> u16 {
        self.log.partitions()
    }
}
