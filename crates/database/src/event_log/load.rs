//! The first half of a transaction: locks the partitions and loads what the memory does not hold.

use super::{
    memory::Memory,
    plan::{Head, Known, SourceState, Stored},
    rows,
    unit::{Unit, partition},
};
use event_log::{Entry, Identity, SourcePosition, TopicKey};
use shared_types::{MappingId, Position};
use sqlx::{PgConnection, Row, postgres::PgRow};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

/// Locks the partitions that `units` touch, and loads what planning them needs. Topics without a head in the
/// present generation get one.
pub async fn load(
    connection: &mut PgConnection,
    memory: &mut Memory,
    units: &[Unit<'_>],
) -> Result<Stored, sqlx::Error> {
    let touched: HashSet<&TopicKey> = units.iter().flat_map(Unit::keys).collect();
    let mut stored = Stored::default();
    lock(connection, memory, &touched, &mut stored).await?;
    topics(connection, memory, &touched, &mut stored).await?;
    sources(connection, memory, units, &mut stored).await?;
    ids(connection, units, &mut stored).await?;
    Ok(stored)
}

/// Locks partitions in ascending order.
pub const LOCK: &str = "select partition, sequence, renewals, (select system_identifier from pg_control_system())::text \
            || ':' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as generation \
     from event_log_partitions where partition = any($1) order by partition for update";

/// Locks in ascending order, so that two processes never wait for each other in a circle.
async fn lock(
    connection: &mut PgConnection,
    memory: &mut Memory,
    touched: &HashSet<&TopicKey>,
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let partitions: BTreeSet<i16> = touched.iter().map(|key| partition(key) as i16).collect();
    let locked =
        sqlx::query(LOCK).bind(partitions.iter().copied().collect::<Vec<_>>()).fetch_all(connection).await?;
    for row in &locked {
        let partition = row.try_get::<i16, _>("partition")? as u16;
        let sequence = row.try_get::<i64, _>("sequence")?.unsigned_abs();
        let renewals = row.try_get("renewals")?;
        memory.check(short(row.try_get("generation")?), partition, sequence, renewals);
        stored.renewals.insert(partition, renewals);
        stored.sequences.insert(partition, sequence);
    }
    if stored.sequences.len() != partitions.len() {
        return Err(sqlx::Error::RowNotFound);
    }
    Ok(())
}

/// A generation as it stands at the front of an epoch: eight characters of its hash.
pub fn short(generation: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(&Sha256::digest(generation)[..4])
}

async fn topics(
    connection: &mut PgConnection,
    memory: &Memory,
    touched: &HashSet<&TopicKey>,
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let mut missing: HashSet<&TopicKey> = HashSet::new();
    for &key in touched {
        match memory.head(key) {
            Some(head) => drop(stored.topics.insert(key.clone(), head.clone())),
            None => drop(missing.insert(key)),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut past = Vec::new();
    for row in find(connection, &missing).await? {
        let epoch: &str = row.try_get("epoch")?;
        let id: i64 = row.try_get("id")?;
        if !epoch.starts_with(memory.generation()) {
            past.push(id);
            continue;
        }
        let key = rows::key(&row)?;
        missing.remove(&key);
        let offset = row.try_get::<i64, _>("last_offset")?.unsigned_abs();
        stored.topics.insert(key, Head { id, position: Position::new(epoch, offset) });
    }
    if !missing.is_empty() {
        begin_epochs(connection, memory, &missing, &past, stored).await?;
    }
    Ok(())
}

async fn find(connection: &mut PgConnection, wanted: &HashSet<&TopicKey>) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(
        "select t.id, t.application_id, t.environment, t.topic, t.epoch, t.last_offset \
         from unnest($1::text[], $2::text[], $3::text[]) as w(application_id, environment, topic) \
         join event_log_topics t using (application_id, environment, topic) where t.is_current",
    )
    .bind(wanted.iter().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|k| k.topic.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Gives each of `topics` an epoch of the present generation; `past` are the rows of their epochs before it.
async fn begin_epochs(
    connection: &mut PgConnection,
    memory: &Memory,
    topics: &HashSet<&TopicKey>,
    past: &[i64],
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    if !past.is_empty() {
        sqlx::query("update event_log_topics set is_current = false where id = any($1)")
            .bind(past)
            .execute(&mut *connection)
            .await?;
    }
    stored.topics.extend(insert_epochs(connection, memory.generation(), topics).await?);
    Ok(())
}

/// Writes a new epoch of `generation` for each of `topics`, which have none.
pub async fn insert_epochs(
    connection: &mut PgConnection,
    generation: &str,
    topics: &HashSet<&TopicKey>,
) -> Result<Vec<(TopicKey, Head)>, sqlx::Error> {
    let epoch = |_: &&TopicKey| format!("{generation}{:012x}", rand::random::<u64>() >> 16);
    let made = sqlx::query(
        "insert into event_log_topics (application_id, environment, topic, partition, epoch) \
         select * from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::text[]) \
         returning id, application_id, environment, topic, epoch",
    )
    .bind(topics.iter().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(topics.iter().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(topics.iter().map(|k| k.topic.as_str()).collect::<Vec<_>>())
    .bind(topics.iter().map(|k| partition(k) as i16).collect::<Vec<_>>())
    .bind(topics.iter().map(epoch).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let head = |row: &PgRow| {
        let position = Position::new(row.try_get::<&str, _>("epoch")?, 0);
        Ok((rows::key(row)?, Head { id: row.try_get("id")?, position }))
    };
    made.iter().map(head).collect()
}

async fn sources(
    connection: &mut PgConnection,
    memory: &Memory,
    units: &[Unit<'_>],
    stored: &mut Stored,
) -> Result<(), sqlx::Error> {
    let mut named: Vec<(&TopicKey, &Arc<str>)> = units
        .iter()
        .flat_map(Unit::entries)
        .filter_map(|entry| match &entry.identity {
            Identity::Positioned { source, .. } => Some((&entry.key, source)),
            _ => None,
        })
        .collect();
    named.dedup();
    let named: HashSet<_> = named.into_iter().map(|(key, source)| (partition(key), source)).collect();
    let mut missing = Vec::new();
    for (partition, source) in named {
        match memory.source(partition, source) {
            Some(state) => drop(stored.sources.insert((partition, source.clone()), state.clone())),
            None => missing.push((partition, source)),
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
    .fetch_all(connection)
    .await?;
    for row in &found {
        let partition = row.try_get::<i16, _>("partition")? as u16;
        stored.sources.insert((partition, row.try_get::<&str, _>("source")?.into()), source_state(row)?);
    }
    Ok(())
}

fn source_state(row: &PgRow) -> Result<SourceState, sqlx::Error> {
    let at = SourcePosition {
        lsn: row.try_get::<i64, _>("lsn")? as u64,
        ordinal: row.try_get::<i64, _>("ordinal")? as u64,
        mapping: MappingId::from_stored(row.try_get::<&str, _>("mapping")?),
    };
    Ok(SourceState { term: row.try_get::<i64, _>("term")? as u64, at, moved: false })
}

async fn ids(
    connection: &mut PgConnection,
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
    .fetch_all(connection)
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
