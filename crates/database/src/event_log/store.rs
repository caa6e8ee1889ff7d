//! The second half of a transaction: moves heads and positions forward and writes the events.

use super::{
    plan::{Head, Insert, Plan, SourceState, Stored},
    rows,
};
use event_log::{StoredEvent, TopicKey};
use sqlx::{PgConnection, Row};
use std::collections::HashMap;

/// From this number of events on they are streamed, which costs less for each event, but two round trips more, and often
/// 40 ms: the end of a stream is a small packet behind others, which the kernel holds back until these are acknowledged,
/// and the server has nothing to answer before it.
const STREAMED: usize = 512;

/// Writes what `plan` says. Answers false where a topic that the memory still knew has been forgotten by the
/// database; nothing may be committed then.
pub async fn store(connection: &mut PgConnection, plan: &Plan, stored: &Stored) -> Result<bool, sqlx::Error> {
    if plan.inserts.is_empty() {
        return Ok(true);
    }
    if plan.inserts.len() < STREAMED {
        return advance(connection, plan, stored, &plan.inserts).await;
    }
    let is_known = advance(connection, plan, stored, &[]).await?;
    if is_known {
        stream(connection, &plan.inserts).await?;
    }
    Ok(is_known)
}

/// Moves partitions, heads and sources forward, remembers publishers' ids and writes `events`: one statement, one round
/// trip.
///
/// A head's `updated_at` is only renewed after a minute, because it is indexed: else every commit would write its
/// index entries anew.
async fn advance(
    connection: &mut PgConnection,
    plan: &Plan,
    stored: &Stored,
    inserts: &[Insert],
) -> Result<bool, sqlx::Error> {
    let grown: HashMap<i64, &TopicKey> =
        plan.inserts.iter().map(|insert| (insert.topic, &insert.event.key)).collect();
    let heads: Vec<&Head> = grown.values().map(|key| &stored.topics[*key]).collect();
    let sources: Vec<(i16, &str, &SourceState)> = stored
        .sources
        .iter()
        .filter(|(_, state)| state.moved)
        .map(|((partition, source), state)| (*partition as i16, &**source, state))
        .collect();
    let id_keys = || plan.ids.iter().map(|((key, _, _), _)| key);
    let events = || inserts.iter().map(|insert| -> &StoredEvent { &insert.event });
    let row = sqlx::query(
        "with grown as ( \
             update event_log_partitions p set sequence = g.sequence, bytes = p.bytes + g.bytes \
             from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as g(partition, sequence, bytes) \
             where p.partition = g.partition \
         ), heads as ( \
             update event_log_topics t set last_offset = h.last_offset, \
                    updated_at = case when t.updated_at > now() - interval '1 minute' then t.updated_at \
                                      else now() end \
             from unnest($4::bigint[], $5::bigint[]) as h(id, last_offset) where t.id = h.id returning t.id \
         ), sources as ( \
             insert into event_log_sources (partition, source, term, lsn, ordinal, mapping) \
             select * from unnest($6::smallint[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[]) \
             on conflict (partition, source) do update \
             set term = excluded.term, lsn = excluded.lsn, ordinal = excluded.ordinal, mapping = excluded.mapping \
         ), ids as ( \
             insert into event_log_ids (application_id, environment, topic, producer, event_id, fingerprint, epoch, \
                                        topic_offset) \
             select * from unnest($12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::bytea[], \
                                  $18::text[], $19::bigint[]) \
         ), events as ( \
             insert into event_log (partition, source, sequence, topic_id, topic_offset, event_id, event_type, payload, \
                                    metadata) \
             select * from unnest($20::smallint[], $21::smallint[], $22::bigint[], $23::bigint[], $24::bigint[], \
                                  $25::text[], $26::text[], $27::text[], $28::text[]) \
         ) \
         select count(*) as heads from heads",
    )
    .bind(plan.bytes.keys().map(|&p| p as i16).collect::<Vec<_>>())
    .bind(plan.bytes.keys().map(|p| stored.sequences[p] as i64).collect::<Vec<_>>())
    .bind(plan.bytes.values().map(|&b| b as i64).collect::<Vec<_>>())
    .bind(heads.iter().map(|head| head.id).collect::<Vec<_>>())
    .bind(heads.iter().map(|head| head.position.offset as i64).collect::<Vec<_>>())
    .bind(sources.iter().map(|(partition, _, _)| *partition).collect::<Vec<_>>())
    .bind(sources.iter().map(|(_, source, _)| *source).collect::<Vec<&str>>())
    .bind(sources.iter().map(|(_, _, s)| s.term as i64).collect::<Vec<_>>())
    .bind(sources.iter().map(|(_, _, s)| s.at.lsn as i64).collect::<Vec<_>>())
    .bind(sources.iter().map(|(_, _, s)| s.at.ordinal as i64).collect::<Vec<_>>())
    .bind(sources.iter().map(|(_, _, s)| s.at.mapping.as_str()).collect::<Vec<_>>())
    .bind(id_keys().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
    .bind(id_keys().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(id_keys().map(|k| k.topic.as_str()).collect::<Vec<_>>())
    .bind(plan.ids.iter().map(|((_, producer, _), _)| &**producer).collect::<Vec<&str>>())
    .bind(plan.ids.iter().map(|((_, _, id), _)| id.as_str()).collect::<Vec<_>>())
    .bind(plan.ids.iter().map(|(_, known)| known.fingerprint.as_slice()).collect::<Vec<&[u8]>>())
    .bind(plan.ids.iter().map(|(_, known)| &*known.position.epoch).collect::<Vec<&str>>())
    .bind(plan.ids.iter().map(|(_, known)| known.position.offset as i64).collect::<Vec<_>>())
    .bind(inserts.iter().map(|i| i.partition as i16).collect::<Vec<_>>())
    .bind(events().map(|e| rows::source_code(e.source)).collect::<Vec<_>>())
    .bind(inserts.iter().map(|i| i.sequence as i64).collect::<Vec<_>>())
    .bind(inserts.iter().map(|i| i.topic).collect::<Vec<_>>())
    .bind(events().map(|e| e.position.offset as i64).collect::<Vec<_>>())
    .bind(events().map(|e| e.id.as_str()).collect::<Vec<_>>())
    .bind(events().map(|e| &*e.kind).collect::<Vec<&str>>())
    .bind(events().map(|e| e.payload.as_str()).collect::<Vec<_>>())
    .bind(events().map(|e| e.metadata.as_str()).collect::<Vec<_>>())
    .fetch_one(connection)
    .await?;
    Ok(row.try_get::<i64, _>("heads")? == heads.len() as i64)
}

/// Streams the events with COPY, which fills whole pages at a time.
async fn stream(connection: &mut PgConnection, inserts: &[Insert]) -> Result<(), sqlx::Error> {
    let mut copy = connection
        .copy_in_raw(
            "copy event_log (partition, source, sequence, topic_id, topic_offset, event_id, event_type, payload, \
                             metadata) from stdin (format binary)",
        )
        .await?;
    copy.send(encode(inserts)).await?;
    copy.finish().await?;
    Ok(())
}

/// The events in COPY's binary format: a header, each row as its number of columns and each column's length and
/// bytes, and a trailer; all numbers big-endian.
fn encode(inserts: &[Insert]) -> Vec<u8> {
    const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    /// What a row takes beside its texts.
    const FIXED: usize = 2 + 9 * 4 + 2 * 2 + 3 * 8;
    let texts = |i: &Insert| i.event.id.as_str().len() + i.event.size();
    let mut out =
        Vec::with_capacity(HEADER.len() + 2 + inserts.iter().map(|i| FIXED + texts(i)).sum::<usize>());
    out.extend_from_slice(HEADER);
    for insert in inserts {
        let event = &insert.event;
        out.extend_from_slice(&9_i16.to_be_bytes());
        column(&mut out, &(insert.partition as i16).to_be_bytes());
        column(&mut out, &rows::source_code(event.source).to_be_bytes());
        column(&mut out, &insert.sequence.to_be_bytes());
        column(&mut out, &insert.topic.to_be_bytes());
        column(&mut out, &event.position.offset.to_be_bytes());
        column(&mut out, event.id.as_str().as_bytes());
        column(&mut out, event.kind.as_bytes());
        column(&mut out, event.payload.as_str().as_bytes());
        column(&mut out, event.metadata.as_str().as_bytes());
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    out
}

fn column(out: &mut Vec<u8>, bytes: &[u8]) {
    // No text comes near 2 GiB: a batch is bounded by a few MiB, and a request's body before that.
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}
