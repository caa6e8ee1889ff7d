//! One partition's turn: claim, append, mark.

use crate::{
    halted::Halted,
    row::{Outbox, OutboxRow},
    source::Source,
    table,
    trouble::OutboxError,
};
use database::tables::{dead_letters, topics};
use event_log::LogError;
use event_router::Routed;
use shared_types::Scope;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Instant,
};

/// How often one row may fail in a way that is not expected to pass before it is set aside.
const STRANGE_FAILURES: u32 = 5;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another worker has the partition.
    Taken,
    /// Fewer rows than a batch were there.
    Through,
    /// There may be more.
    More,
}

/// The rows of one topic, in order.
struct OfTopic {
    place: String,
    rows: Vec<(OutboxRow, Routed)>,
}

/// What one topic's part of a turn came to.
#[derive(Default)]
struct Done {
    marked: Vec<i64>,
    halted_at: Option<i64>,
}

/// Claims the next rows of `partition`, appends their events and marks them.
///
/// Claims end with the transaction: whoever dies here leaves the rows to the next, and what it had appended is
/// recognized by its id.
///
/// # Errors
/// Those of the databases; then nothing is marked.
pub async fn turn(source: &Source, halted: &Mutex<Halted>, partition: i32) -> Result<Turn, OutboxError> {
    let mut tx = source.pool.begin().await?;
    if !table::lock(&mut tx, partition).await? {
        return Ok(Turn::Taken);
    }
    let waiting = locked(halted).waiting(Instant::now());
    let rows = table::claim(&mut tx, source.form(), partition, &waiting).await?;
    if rows.is_empty() {
        return Ok(Turn::Through);
    }
    let bytes: i64 = rows.iter().map(|row| row.bytes).sum();
    let is_full = rows.len() as i64 == table::BATCH || bytes >= table::BATCH_BYTES;
    let (topics, mut marked) = sort(source, rows).await?;
    let done = futures::future::join_all(topics.into_iter().map(|topic| append(source, halted, topic))).await;
    marked.extend(done.into_iter().flat_map(|done| done.marked));
    table::mark(&mut tx, &marked).await?;
    tx.commit().await?;
    Ok(if is_full { Turn::More } else { Turn::Through })
}

fn locked(halted: &Mutex<Halted>) -> std::sync::MutexGuard<'_, Halted> {
    halted.lock().expect("nobody panics while holding it")
}

/// Sorts rows by topic; sets those aside that can never be events, and answers their ids.
async fn sort(source: &Source, rows: Vec<OutboxRow>) -> Result<(Vec<OfTopic>, Vec<i64>), OutboxError> {
    let forbidden = forbidden(source, &rows).await?;
    let mut topics: BTreeMap<String, OfTopic> = BTreeMap::new();
    let mut aside = Vec::new();
    for row in rows {
        let is_forbidden =
            forbidden.get(&source.outbox.scope(&row)).is_some_and(|names| names.contains(&row.topic));
        let event = if is_forbidden {
            Err("topic: is not registered, and only registered topics may be used here".to_owned())
        } else {
            source.outbox.event(&row).map_err(|problem| problem.message)
        };
        match event {
            Ok(event) => {
                let place = row.place();
                let of_topic = topics.entry(place.clone());
                of_topic.or_insert_with(|| OfTopic { place, rows: Vec::new() }).rows.push((row, event));
            }
            Err(reason) => {
                set_aside(source, &row, &reason, 1).await?;
                aside.push(row.id);
            }
        }
    }
    Ok((topics.into_values().collect(), aside))
}

/// The topics of `rows` that their scopes do not allow.
async fn forbidden(source: &Source, rows: &[OutboxRow]) -> Result<HashMap<Scope, Vec<String>>, OutboxError> {
    let mut names: HashMap<Scope, Vec<String>> = HashMap::new();
    for row in rows {
        let of_scope = names.entry(source.outbox.scope(row)).or_default();
        if !of_scope.contains(&row.topic) {
            of_scope.push(row.topic.clone());
        }
    }
    for (scope, names) in &mut names {
        *names = topics::forbidden(&source.platform, scope, names).await?;
    }
    Ok(names)
}

/// Keeps a row that can never be an event as a dead letter, once.
async fn set_aside(source: &Source, row: &OutboxRow, reason: &str, attempts: u32) -> Result<(), OutboxError> {
    let Outbox { producer, .. } = &source.outbox;
    let event_id = source.outbox.event_id(row);
    let letter = dead_letters::NewDeadLetter {
        kind: dead_letters::Kind::Outbox,
        webhook_id: None,
        event_id: event_id.as_str(),
        reason,
        attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
        content: &row.content(),
    };
    let is_new = dead_letters::insert(&source.platform, &source.outbox.scope(row), &letter).await?;
    if is_new {
        source.metrics.outbox_dead_letters.inc();
        tracing::warn!(outbox = %producer, outbox.row = row.id, topic.name = row.topic, reason, "a row can never be an event; it is among the dead letters");
    }
    Ok(())
}

/// Appends the events of one topic: all at once, or, where one of them is in the way, up to that one.
async fn append(source: &Source, halted: &Mutex<Halted>, topic: OfTopic) -> Done {
    let OfTopic { place, rows } = topic;
    let events: Vec<Routed> = rows.iter().map(|(_, event)| event.clone()).collect();
    let mut done = Done::default();
    match source.router.route(events).await {
        Ok(_) => done.marked = rows.iter().map(|(row, _)| row.id).collect(),
        Err(error) if is_passing(&error) => {
            halt(source, halted, &place, rows[0].0.id, &error, &mut done);
        }
        // One of them is in the way, and each is to have its own fate.
        Err(_) => one_by_one(source, halted, &place, rows, &mut done).await,
    }
    source.metrics.outbox_events.inc_by(done.marked.len() as u64);
    if done.halted_at.is_none() {
        locked(halted).release(&place);
    }
    done
}

async fn one_by_one(
    source: &Source,
    halted: &Mutex<Halted>,
    place: &str,
    rows: Vec<(OutboxRow, Routed)>,
    done: &mut Done,
) {
    for (row, event) in rows {
        let failed = match source.router.route(vec![event]).await {
            Ok(_) => None,
            Err(error @ LogError::IdConflict { .. }) => Some((error.to_string(), 1)),
            Err(error) => {
                let failures = halt(source, halted, place, row.id, &error, done);
                if is_passing(&error) || failures < STRANGE_FAILURES {
                    return;
                }
                Some(("the event log cannot take it".to_owned(), failures))
            }
        };
        if let Some((reason, attempts)) = failed {
            if let Err(error) = set_aside(source, &row, &reason, attempts).await {
                tracing::debug!(%error, "could not keep a dead letter; trying again");
                done.halted_at = Some(row.id);
                return;
            }
            done.halted_at = None;
        }
        done.marked.push(row.id);
    }
}

/// Stops a topic at `row` for a while; answers how often that row has failed.
fn halt(
    source: &Source,
    halted: &Mutex<Halted>,
    place: &str,
    row: i64,
    error: &LogError,
    done: &mut Done,
) -> u32 {
    done.halted_at = Some(row);
    let failures = locked(halted).stop(place, row, Instant::now());
    if failures == 1 {
        tracing::warn!(%error, outbox = %source.outbox.producer, topic.name = place, outbox.row = row, "a row could not be appended; its topic waits");
    }
    failures
}

/// Whether a failure says something about the log rather than about the event.
fn is_passing(error: &LogError) -> bool {
    matches!(error, LogError::Unavailable(_) | LogError::BacklogFull | LogError::Fenced { .. })
}
