//! One transaction of the group commit: lock, load, plan, write.

use super::{
    PARTITIONS,
    plan::{self, Known, Plan, SourceState, Stored},
    rows, within,
};
use crate::documents::{self, EditRequest, Edits};
use document_store::{Document, StoreError};
use event_log::{Entry, Identity, LogError, Outcome, SourcePosition, StoredEvent, TopicKey, partition_of};
use shared_types::{MappingId, Position, Problem};
use sqlx::{PgPool, Postgres, Row, Transaction};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// How long a transaction may take before its callers are told that the log does not answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How often a transaction is done again because of documents that others create meanwhile.
const TRIES: usize = 10;
/// How many topics are remembered for each partition before they are read again.
const REMEMBERED: usize = 10_000;

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

/// What this process knows of the log since its own last commit; valid for a partition only as long as its
/// sequence has not moved without us.
#[derive(Default)]
pub struct Memory {
    generation: String,
    partitions: HashMap<u16, Remembered>,
}

#[derive(Default)]
struct Remembered {
    sequence: u64,
    topics: HashMap<TopicKey, Position>,
    sources: HashMap<Arc<str>, Option<SourceState>>,
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
    let work = async {
        for _ in 0..TRIES {
            if let Some(done) = attempt(pool, memory, requests).await? {
                return Ok(done);
            }
        }
        Err(sqlx::Error::Protocol("documents were created by others again and again".to_owned()))
    };
    match within(TIMEOUT, work).await {
        Ok((answers, stored, plan)) => {
            remember(memory, stored);
            Ok((answers, grown(plan)))
        }
        Err(error) => {
            *memory = Memory::default();
            Err(error)
        }
    }
}

/// One transaction; `None` where it must be done again because another process has created one of its documents.
async fn attempt(
    pool: &PgPool,
    memory: &mut Memory,
    requests: &[Request],
) -> Result<Option<(Vec<Answer>, Stored, Plan)>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    // Documents first, partitions last: what an edit appends is only known once it is done.
    let edits = Edits::prepare(&mut tx, requests).await?;
    let units = units(requests, &edits);
    let touched: Vec<&TopicKey> = units.iter().flat_map(Unit::keys).collect();
    let (mut stored, made) = load(&mut tx, memory, &units, &touched).await?;
    let mut plan = Plan::default();
    let answers = units.iter().map(|unit| unit.answer(&mut plan, &mut stored)).collect();
    if !edits.write(&mut tx).await? {
        return Ok(None);
    }
    write(&mut tx, &plan, &stored, &made).await?;
    tx.commit().await?;
    Ok(Some((answers, stored, plan)))
}

/// A request of which it is known what it appends.
enum Unit<'r> {
    Append(&'r [Entry]),
    Ensure(&'r [TopicKey]),
    Edit(Result<(Document, Entry), Problem>),
}

fn units<'r>(requests: &'r [Request], edits: &Edits) -> Vec<Unit<'r>> {
    let mut outcomes = edits.outcomes();
    let unit = |request: &'r Request| match request {
        Request::Append(entries) => Unit::Append(entries),
        Request::Ensure(keys) => Unit::Ensure(keys),
        Request::Edit(_) => Unit::Edit(outcomes.next().expect("every edit has an outcome")),
    };
    requests.iter().map(unit).collect()
}

impl Unit<'_> {
    fn entries(&self) -> &[Entry] {
        match self {
            Self::Append(entries) => entries,
            Self::Edit(Ok((_, entry))) => std::slice::from_ref(entry),
            Self::Edit(Err(_)) | Self::Ensure(_) => &[],
        }
    }

    fn keys(&self) -> Vec<&TopicKey> {
        match self {
            Self::Ensure(keys) => keys.iter().collect(),
            _ => self.entries().iter().map(|entry| &entry.key).collect(),
        }
    }

    fn answer(&self, plan: &mut Plan, stored: &mut Stored) -> Answer {
        match self {
            Self::Append(entries) => Answer::Append(plan::add(plan, stored, entries, partition)),
            Self::Ensure(keys) => Answer::Ensure(keys.iter().map(|key| stored.topics[key].clone()).collect()),
            Self::Edit(Ok((document, _))) => {
                let added = plan::add(plan, stored, self.entries(), partition).map_err(documents::failed);
                Answer::Edit(added.map(|_| document.clone()))
            }
            Self::Edit(Err(problem)) => Answer::Edit(Err(StoreError::Refused(problem.clone()))),
        }
    }
}

fn partition(key: &TopicKey) -> u16 {
    partition_of(key, PARTITIONS)
}

/// Locks the partitions and loads what the memory does not hold. Also answers the topics that got a new epoch.
async fn load(
    tx: &mut Transaction<'_, Postgres>,
    memory: &mut Memory,
    units: &[Unit<'_>],
    touched: &[&TopicKey],
) -> Result<(Stored, HashSet<TopicKey>), sqlx::Error> {
    let partitions: BTreeSet<u16> = touched.iter().map(|key| partition(key)).collect();
    let mut stored = Stored::default();
    lock(tx, memory, &partitions, &mut stored).await?;
    let made = load_topics(tx, memory, touched, &mut stored).await?;
    load_sources(tx, memory, units, &mut stored).await?;
    load_ids(tx, units, &mut stored).await?;
    Ok((stored, made))
}

/// Locks in ascending order, so that two processes never wait for each other in a circle.
async fn lock(
    tx: &mut Transaction<'_, Postgres>,
    memory: &mut Memory,
    partitions: &BTreeSet<u16>,
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let wanted: Vec<i16> = partitions.iter().map(|&p| p as i16).collect();
    let locked = sqlx::query(
        "select partition, sequence, (select system_identifier from pg_control_system())::text \
                || ':' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as generation \
         from event_log_partitions where partition = any($1) order by partition for update",
    )
    .bind(wanted)
    .fetch_all(&mut **tx)
    .await?;
    for row in &locked {
        let generation: &str = row.try_get("generation")?;
        let generation = short(generation);
        if memory.generation != generation {
            *memory = Memory { generation, ..Memory::default() };
        }
        let partition = row.try_get::<i16, _>("partition")? as u16;
        let sequence = row.try_get::<i64, _>("sequence")?.unsigned_abs();
        if memory.partitions.get(&partition).is_some_and(|known| known.sequence != sequence) {
            memory.partitions.remove(&partition);
        }
        stored.sequences.insert(partition, sequence);
    }
    if stored.sequences.len() != partitions.len() {
        return Err(sqlx::Error::RowNotFound);
    }
    Ok(())
}

/// A generation as it stands at the front of an epoch: eight characters of its hash.
fn short(generation: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(generation)[..4])
}

async fn load_topics(
    tx: &mut Transaction<'_, Postgres>,
    memory: &Memory,
    touched: &[&TopicKey],
    stored: &mut Stored,
) -> Result<HashSet<TopicKey>, sqlx::Error> {
    let mut missing: HashSet<&TopicKey> = HashSet::new();
    for &key in touched {
        match memory.partitions.get(&partition(key)).and_then(|known| known.topics.get(key)) {
            Some(head) => {
                stored.topics.insert(key.clone(), head.clone());
            }
            None => {
                missing.insert(key);
            }
        }
    }
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let found = sqlx::query(
        "select t.application_id, t.environment, t.topic, t.epoch, t.last_offset \
         from unnest($1::text[], $2::text[], $3::text[]) as w(application_id, environment, topic) \
         join event_log_topics t using (application_id, environment, topic)",
    )
    .bind(missing.iter().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(missing.iter().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(missing.iter().map(|k| k.topic.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    for row in &found {
        let epoch: &str = row.try_get("epoch")?;
        if epoch.starts_with(&memory.generation) {
            let offset = row.try_get::<i64, _>("last_offset")?.unsigned_abs();
            stored.topics.insert(rows::key(row)?, Position::new(epoch, offset));
        }
    }
    let made: HashSet<TopicKey> =
        missing.into_iter().filter(|key| !stored.topics.contains_key(*key)).cloned().collect();
    for key in &made {
        let epoch = format!("{}{:012x}", memory.generation, rand::random::<u64>() >> 16);
        stored.topics.insert(key.clone(), Position::new(epoch, 0));
    }
    Ok(made)
}

async fn load_sources(
    tx: &mut Transaction<'_, Postgres>,
    memory: &Memory,
    units: &[Unit<'_>],
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let mut missing: HashSet<(u16, &Arc<str>)> = HashSet::new();
    for entry in units.iter().flat_map(Unit::entries) {
        let Identity::Positioned { source, .. } = &entry.identity else { continue };
        let partition = partition(&entry.key);
        match memory.partitions.get(&partition).and_then(|known| known.sources.get(source)) {
            Some(Some(state)) => {
                stored.sources.insert((partition, source.clone()), state.clone());
            }
            Some(None) => {}
            None => {
                missing.insert((partition, source));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let found = sqlx::query(
        "select s.partition, s.source, s.term, s.lsn, s.ordinal, s.mapping \
         from unnest($1::smallint[], $2::text[]) as w(partition, source) \
         join event_log_sources s using (partition, source)",
    )
    .bind(missing.iter().map(|(p, _)| *p as i16).collect::<Vec<_>>())
    .bind(missing.iter().map(|(_, s)| &***s).collect::<Vec<&str>>())
    .fetch_all(&mut **tx)
    .await?;
    for row in &found {
        let at = SourcePosition {
            lsn: row.try_get::<i64, _>("lsn")? as u64,
            ordinal: row.try_get::<i64, _>("ordinal")? as u64,
            mapping: MappingId::from_stored(row.try_get::<&str, _>("mapping")?),
        };
        let state = SourceState { term: row.try_get::<i64, _>("term")? as u64, at };
        let partition = row.try_get::<i16, _>("partition")? as u16;
        stored.sources.insert((partition, row.try_get::<&str, _>("source")?.into()), state);
    }
    Ok(())
}

async fn load_ids(
    tx: &mut Transaction<'_, Postgres>,
    units: &[Unit<'_>],
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let keyed: Vec<(&Entry, &Arc<str>)> = units
        .iter()
        .flat_map(Unit::entries)
        .filter_map(|entry| match &entry.identity {
            Identity::Keyed { producer } => Some((entry, producer)),
            _ => None,
        })
        .collect();
    if keyed.is_empty() {
        return Ok(());
    }
    let found = sqlx::query(
        "select i.application_id, i.environment, i.topic, i.producer, i.event_id, i.fingerprint, i.epoch, \
                i.topic_offset \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
              as w(application_id, environment, topic, producer, event_id) \
         join event_log_ids i using (application_id, environment, topic, producer, event_id)",
    )
    .bind(keyed.iter().map(|(e, _)| e.key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(keyed.iter().map(|(e, _)| e.key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(keyed.iter().map(|(e, _)| e.key.topic.as_str()).collect::<Vec<_>>())
    .bind(keyed.iter().map(|(_, p)| &***p).collect::<Vec<&str>>())
    .bind(keyed.iter().map(|(e, _)| e.id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    for row in &found {
        let offset = row.try_get::<i64, _>("topic_offset")?.unsigned_abs();
        let known = Known {
            fingerprint: row.try_get("fingerprint")?,
            position: Position::new(row.try_get::<&str, _>("epoch")?, offset),
        };
        let producer: Arc<str> = row.try_get::<&str, _>("producer")?.into();
        stored.ids.insert((rows::key(row)?, producer, row.try_get("event_id")?), known);
    }
    Ok(())
}

async fn write(
    tx: &mut Transaction<'_, Postgres>,
    plan: &Plan,
    stored: &Stored,
    made: &HashSet<TopicKey>,
) -> Result<(), sqlx::Error> {
    if plan.inserts.is_empty() && made.is_empty() {
        return Ok(());
    }
    write_events(tx, plan, stored, made).await?;
    write_ids(tx, plan).await?;
    write_sources(tx, plan).await
}

async fn write_events(
    tx: &mut Transaction<'_, Postgres>,
    plan: &Plan,
    stored: &Stored,
    made: &HashSet<TopicKey>,
) -> Result<(), sqlx::Error> {
    let heads: HashSet<&TopicKey> = made.iter().chain(plan.inserts.iter().map(|i| &i.event.key)).collect();
    let heads: Vec<(&TopicKey, &Position)> =
        heads.into_iter().map(|key| (key, &stored.topics[key])).collect();
    let events: Vec<&StoredEvent> = plan.inserts.iter().map(|insert| &*insert.event).collect();
    sqlx::query(
        "with grown as ( \
             update event_log_partitions p set sequence = g.sequence, bytes = p.bytes + g.bytes \
             from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as g(partition, sequence, bytes) \
             where p.partition = g.partition \
         ), heads as ( \
             insert into event_log_topics (application_id, environment, topic, partition, epoch, last_offset) \
             select * from unnest($4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[], $9::bigint[]) \
             on conflict (application_id, environment, topic) do update \
             set epoch = excluded.epoch, last_offset = excluded.last_offset, updated_at = now() \
         ) \
         insert into event_log (partition, sequence, application_id, environment, topic, epoch, topic_offset, \
                                event_id, source, event_type, payload, metadata) \
         select * from unnest($10::smallint[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], \
                              $16::bigint[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[])",
    )
    .bind(plan.bytes.keys().map(|&p| p as i16).collect::<Vec<_>>())
    .bind(plan.bytes.keys().map(|p| stored.sequences[p] as i64).collect::<Vec<_>>())
    .bind(plan.bytes.values().map(|&b| b as i64).collect::<Vec<_>>())
    .bind(heads.iter().map(|(k, _)| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(heads.iter().map(|(k, _)| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(heads.iter().map(|(k, _)| k.topic.as_str()).collect::<Vec<_>>())
    .bind(heads.iter().map(|(k, _)| partition(k) as i16).collect::<Vec<_>>())
    .bind(heads.iter().map(|(_, p)| &*p.epoch).collect::<Vec<&str>>())
    .bind(heads.iter().map(|(_, p)| p.offset as i64).collect::<Vec<_>>())
    .bind(plan.inserts.iter().map(|i| i.partition as i16).collect::<Vec<_>>())
    .bind(plan.inserts.iter().map(|i| i.sequence as i64).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.key.topic.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| &*e.position.epoch).collect::<Vec<&str>>())
    .bind(events.iter().map(|e| e.position.offset as i64).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.id.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.source.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| &*e.kind).collect::<Vec<&str>>())
    .bind(events.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|e| e.metadata.as_str()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn write_ids(tx: &mut Transaction<'_, Postgres>, plan: &Plan) -> Result<(), sqlx::Error> {
    if plan.ids.is_empty() {
        return Ok(());
    }
    let keys = || plan.ids.iter().map(|((key, _, _), _)| key);
    sqlx::query(
        "insert into event_log_ids (application_id, environment, topic, producer, event_id, fingerprint, epoch, \
                                    topic_offset) \
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], \
                              $8::bigint[])",
    )
    .bind(keys().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(keys().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(keys().map(|k| k.topic.as_str()).collect::<Vec<_>>())
    .bind(plan.ids.iter().map(|((_, producer, _), _)| &**producer).collect::<Vec<&str>>())
    .bind(plan.ids.iter().map(|((_, _, id), _)| id.as_str()).collect::<Vec<_>>())
    .bind(plan.ids.iter().map(|(_, known)| known.fingerprint.as_slice()).collect::<Vec<&[u8]>>())
    .bind(plan.ids.iter().map(|(_, known)| &*known.position.epoch).collect::<Vec<&str>>())
    .bind(plan.ids.iter().map(|(_, known)| known.position.offset as i64).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn write_sources(tx: &mut Transaction<'_, Postgres>, plan: &Plan) -> Result<(), sqlx::Error> {
    if plan.sources.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into event_log_sources (partition, source, term, lsn, ordinal, mapping) \
         select * from unnest($1::smallint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) \
         on conflict (partition, source) do update \
         set term = excluded.term, lsn = excluded.lsn, ordinal = excluded.ordinal, mapping = excluded.mapping",
    )
    .bind(plan.sources.keys().map(|(p, _)| *p as i16).collect::<Vec<_>>())
    .bind(plan.sources.keys().map(|(_, s)| &**s).collect::<Vec<&str>>())
    .bind(plan.sources.values().map(|s| s.term as i64).collect::<Vec<_>>())
    .bind(plan.sources.values().map(|s| s.at.lsn as i64).collect::<Vec<_>>())
    .bind(plan.sources.values().map(|s| s.at.ordinal as i64).collect::<Vec<_>>())
    .bind(plan.sources.values().map(|s| s.at.mapping.as_str()).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn remember(memory: &mut Memory, stored: Stored) {
    for (&partition, &sequence) in &stored.sequences {
        memory.partitions.entry(partition).or_default().sequence = sequence;
    }
    for (key, head) in stored.topics {
        let known = memory.partitions.entry(partition(&key)).or_default();
        if known.topics.len() >= REMEMBERED {
            known.topics.clear();
        }
        known.topics.insert(key, head);
    }
    for ((partition, source), state) in stored.sources {
        memory.partitions.entry(partition).or_default().sources.insert(source, Some(state));
    }
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
