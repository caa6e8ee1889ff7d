//! A request of which it is known what it appends.

use super::{
    PARTITIONS,
    append::{Answer, Request},
    plan::{self, Plan, Stored},
};
use crate::documents::{self, Edits};
use document_store::{Document, StoreError};
use event_log::{Entry, TopicKey, partition_of};
use shared_types::Problem;

/// What a request comes to.
pub enum Unit<'r> {
    /// Entries to append, all or none.
    Append(&'r [Entry]),
    /// Topics that must have an epoch.
    Ensure(&'r [TopicKey]),
    /// An edited document with its event, or why it was not edited.
    Edit(Box<Result<(Document, Entry), Problem>>),
}

/// The units of `requests`, in their order.
pub fn units<'r>(requests: &'r [Request], edits: &Edits) -> Vec<Unit<'r>> {
    let mut outcomes = edits.outcomes();
    let unit = |request: &'r Request| match request {
        Request::Append(entries) => Unit::Append(entries),
        Request::Ensure(keys) => Unit::Ensure(keys),
        Request::Edit(_) => Unit::Edit(Box::new(outcomes.next().expect("every edit has an outcome"))),
    };
    requests.iter().map(unit).collect()
}

impl Unit<'_> {
    /// What it appends.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Append(entries) => entries,
            Self::Ensure(_) => &[],
            Self::Edit(edited) => {
                edited.as_ref().as_ref().map_or(&[], |(_, entry)| std::slice::from_ref(entry))
            }
        }
    }

    /// The topics that it touches, not the same one twice in a row.
    pub fn keys(&self) -> Vec<&TopicKey> {
        let mut keys: Vec<&TopicKey> = match self {
            Self::Ensure(keys) => keys.iter().collect(),
            _ => self.entries().iter().map(|entry| &entry.key).collect(),
        };
        keys.dedup();
        keys
    }

    /// Plans it, and answers what became of it.
    pub fn answer(&self, plan: &mut Plan, stored: &mut Stored) -> Answer {
        let head = |stored: &Stored, key| stored.topics[key].position.clone();
        match self {
            Self::Append(entries) => Answer::Append(plan::add(plan, stored, entries, partition)),
            Self::Ensure(keys) => Answer::Ensure(keys.iter().map(|key| head(stored, key)).collect()),
            Self::Edit(edited) => Answer::Edit(match edited.as_ref() {
                Ok((document, _)) => plan::add(plan, stored, self.entries(), partition)
                    .map(|_| document.clone())
                    .map_err(documents::failed),
                Err(problem) => Err(StoreError::Refused(problem.clone())),
            }),
        }
    }
}

/// The partition of a topic.
pub fn partition(key: &TopicKey) -> u16 {
    partition_of(key, PARTITIONS)
}
