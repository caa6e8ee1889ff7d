//! One transaction of the group commit: edit documents, load, plan, store.

use super::{
    leave, load,
    memory::Memory,
    plan::{Plan, Stored},
    store, unit, within,
};
use crate::{
    documents::{EditRequest, Edits},
    keyed,
};
use document_store::{Document, StoreError};
use event_log::{Entry, LogError, Outcome, StoredEvent, TopicKey};
use shared_types::Position;
use sqlx::{Connection, PgConnection, PgPool};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a transaction may take before its callers are told that the log does not answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How often a transaction is done again because of what others create or remove meanwhile.
const TRIES: usize = 10;

/// A request of the batch.
pub enum Request {
    /// Entries to append, all or none.
    Append(Vec<Entry>),
    /// Topics that must have an epoch.
    Ensure(Vec<TopicKey>),
    /// A document to edit; what it becomes is written, and its event appended.
    Edit(EditRequest),
}

impl Request {
    /// The edit, where it is one.
    pub fn edit(&self) -> Option<&EditRequest> {
        match self {
            Self::Edit(request) => Some(request),
            _ => None,
        }
    }
}

/// The answer to a request.
pub enum Answer {
    /// What became of each entry.
    Append(Result<Vec<Outcome>, LogError>),
    /// The heads of the topics.
    Ensure(Vec<Position>),
    /// The document, or why it was not written.
    Edit(Result<Document, StoreError>),
}

/// What a partition gained.
pub struct Grown {
    /// The partition.
    pub partition: u16,
    /// The number of the first of `events`.
    pub first: u64,
    /// The events in order.
    pub events: Vec<Arc<StoredEvent>>,
}

impl Grown {
    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }
}

/// What a transaction has done.
struct Done {
    answers: Vec<Answer>,
    stored: Stored,
    plan: Plan,
}

/// Commits `requests` together; answers in their order, with what the partitions gained.
///
/// # Errors
/// `Unavailable` or `Internal` for all of them; then nothing is known to be committed, and the memory is empty.
pub async fn commit(
    pool: &PgPool,
    memory: &mut Memory,
    requests: &[Request],
) -> Result<(Vec<Answer>, Vec<Grown>), LogError> {
    let mut known = std::mem::take(memory);
    let mut connection = within(TIMEOUT, pool.acquire()).await?;
    let outcome = timeout(TIMEOUT, attempts(&mut connection, &mut known, requests)).await;
    let done = leave(connection, TIMEOUT, outcome).await?;
    known.remember(done.stored);
    *memory = known;
    Ok((done.answers, grown(done.plan)))
}

async fn attempts(
    connection: &mut PgConnection,
    memory: &mut Memory,
    requests: &[Request],
) -> Result<Done, sqlx::Error> {
    for _ in 0..TRIES {
        if let Some(done) = attempt(connection, memory, requests).await? {
            return Ok(done);
        }
    }
    Err(sqlx::Error::Protocol("others changed what it is about again and again".to_owned()))
}

/// One transaction; `None` where it must be done again, because another process has created one of its documents or
/// retention has removed one of its topics.
async fn attempt(
    connection: &mut PgConnection,
    memory: &mut Memory,
    requests: &[Request],
) -> Result<Option<Done>, sqlx::Error> {
    let mut tx = connection.begin_with(keyed::BEGIN).await?;
    // Documents first, partitions last: what an edit appends is only known once it is done.
    let edits = Edits::prepare(&mut tx, requests).await?;
    let units = unit::units(requests, &edits);
    let mut stored = load::load(&mut tx, memory, &units).await?;
    let mut plan = Plan::default();
    let answers = units.iter().map(|unit| unit.answer(&mut plan, &mut stored)).collect();
    if !edits.write(&mut tx).await? {
        return Ok(None);
    }
    if !store::store(&mut tx, &plan, &stored).await? {
        *memory = Memory::default();
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(Done { answers, stored, plan }))
}

fn grown(plan: Plan) -> Vec<Grown> {
    let mut grown: HashMap<u16, Grown> = HashMap::new();
    for insert in plan.inserts {
        grown
            .entry(insert.partition)
            .or_insert_with(|| Grown {
                partition: insert.partition,
                first: insert.sequence,
                events: Vec::new(),
            })
            .events
            .push(insert.event);
    }
    grown.into_values().collect()
}

/// Whether a failure may be the fault of one request, so that the others are worth trying without it.
pub fn may_be_one_request(error: &LogError) -> bool {
    matches!(error, LogError::Internal(_))
}
