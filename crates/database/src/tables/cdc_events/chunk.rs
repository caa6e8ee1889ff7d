//! Many changes as one row: what they have in common once, and a short line for each.

use super::{CdcEvent, CdcEventQuery, MappingResult, NewCdcEvent, Outcome, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use shared_types::{Operation, TopicName};
use std::fmt::Write as _;

/// Changes of one chunk at most; an id has room for [`PLACES`].
pub(super) const CHANGES: usize = 1_000;
/// Ids of one chunk.
const PLACES: i64 = 1_024;
/// Shapes of one chunk at most: each change is compared with them.
const SHAPES: usize = 64;
/// Bytes of one chunk from which on the next one begins.
const BYTES: usize = 256 * 1_024;

/// What changes have in common.
#[derive(Debug, Serialize, Deserialize)]
struct Shape {
    table: String,
    operation: Operation,
    outcome: Outcome,
    /// Without the events' ids.
    results: Vec<MappingResult>,
}

/// A change: its shape, position (two numbers), time, key, and the ids of its results' events.
type Line<'a> = (usize, u64, u64, i64, Option<&'a RawValue>, &'a RawValue);

/// A row to be.
#[derive(Default)]
pub(super) struct Chunk<'a> {
    /// A change of each shape.
    shapes: Vec<&'a NewCdcEvent>,
    changes: String,
    size: i16,
}

impl<'a> Chunk<'a> {
    /// How many changes.
    pub fn size(&self) -> i16 {
        self.size
    }

    /// Whether another change has to go into the next one.
    pub fn is_full(&self) -> bool {
        usize::from(self.size.unsigned_abs()) >= CHANGES
            || self.shapes.len() >= SHAPES
            || self.changes.len() >= BYTES
    }

    /// Adds a change.
    pub fn push(&mut self, event: &'a NewCdcEvent) {
        let shape = self.shapes.iter().rposition(|other| alike(other, event)).unwrap_or_else(|| {
            self.shapes.push(event);
            self.shapes.len() - 1
        });
        self.changes.push_str(if self.size == 0 { "[" } else { ",\n" });
        self.size += 1;
        let key = event.key.as_deref().unwrap_or("null");
        // Writing into a text cannot fail.
        let _ = write!(self.changes, "[{shape},{},{},{},{key},[", event.lsn, event.ordinal, event.commit_ms);
        for (number, result) in event.results.iter().enumerate() {
            if number > 0 {
                self.changes.push(',');
            }
            match &result.event_id {
                // Ids are letters, digits and underscores.
                Some(id) => {
                    self.changes.push('"');
                    self.changes.push_str(id.as_str());
                    self.changes.push('"');
                }
                None => self.changes.push_str("null"),
            }
        }
        self.changes.push_str("]]");
    }

    /// The columns `shapes` and `changes`.
    pub fn finish(mut self) -> (String, String) {
        self.changes.push(']');
        let shapes: Vec<Shape> = self.shapes.iter().map(|event| Shape::of(event)).collect();
        // Texts and enums always have a form in JSON.
        (serde_json::to_string(&shapes).unwrap_or_default(), self.changes)
    }
}

fn alike(a: &NewCdcEvent, b: &NewCdcEvent) -> bool {
    let same = |(a, b): (&Verdict, &Verdict)| {
        a.outcome == b.outcome && a.mapping == b.mapping && a.topic == b.topic && a.reason == b.reason
    };
    a.operation == b.operation
        && a.table == b.table
        && a.results.len() == b.results.len()
        && a.results.iter().zip(&b.results).all(same)
}

impl Shape {
    fn of(event: &NewCdcEvent) -> Self {
        let result = |verdict: &Verdict| MappingResult {
            mapping_id: verdict.mapping.to_string(),
            outcome: verdict.outcome,
            topic: verdict.topic.as_ref().map(TopicName::to_string),
            event_id: None,
            // NUL cannot be stored.
            reason: verdict.reason.as_ref().map(|reason| reason.replace('\0', "")),
        };
        Self {
            table: event.table.to_string(),
            operation: event.operation,
            outcome: event.outcome(),
            results: event.results.iter().map(result).collect(),
        }
    }

    fn answers(&self, query: &CdcEventQuery) -> bool {
        query.table.as_ref().is_none_or(|table| *table == self.table)
            && query.operation.is_none_or(|operation| operation == self.operation)
            && query.outcome.is_none_or(|outcome| outcome == self.outcome)
            && query.mapping.as_ref().is_none_or(|id| self.results.iter().any(|r| r.mapping_id == *id))
    }
}

/// What the column `shapes` contains where a change of the chunk answers `query`.
pub(super) fn containment(query: &CdcEventQuery) -> serde_json::Value {
    let mut shape = serde_json::Map::new();
    let mut add = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            shape.insert(name.to_owned(), value);
        }
    };
    add("table", query.table.as_ref().map(|table| json!(table)));
    add("operation", query.operation.map(|operation| json!(operation)));
    add("outcome", query.outcome.map(|outcome| json!(outcome)));
    add("results", query.mapping.as_ref().map(|mapping| json!([{ "mappingId": mapping }])));
    json!([shape])
}

/// The chunk that the change `id` is in.
pub(super) fn chunk_of(id: i64) -> i64 {
    id.div_euclid(PLACES)
}

/// Adds the changes of the chunk `chunk` that answer `query` to `found`, the newest first, until it has `limit`.
pub(super) fn read(
    (chunk, shapes, changes): (i64, &str, &str),
    query: &CdcEventQuery,
    limit: usize,
    found: &mut Vec<CdcEvent>,
) -> Result<(), serde_json::Error> {
    let shapes: Vec<Shape> = serde_json::from_str(shapes)?;
    let lines: Vec<Line<'_>> = serde_json::from_str(changes)?;
    for (place, line) in lines.iter().enumerate().rev() {
        if found.len() >= limit {
            break;
        }
        let id = chunk.saturating_mul(PLACES).saturating_add(i64::try_from(place).unwrap_or(PLACES - 1));
        let shape = shapes.get(line.0).filter(|shape| shape.answers(query));
        if let Some(shape) = shape
            && query.before.is_none_or(|before| id < before)
        {
            found.push(event(id, shape, line)?);
        }
    }
    Ok(())
}

fn event(id: i64, shape: &Shape, line: &Line<'_>) -> Result<CdcEvent, serde_json::Error> {
    let (_, lsn, ordinal, timestamp, key, ids) = *line;
    let ids: Vec<Option<String>> = serde_json::from_str(ids.get())?;
    let results = shape.results.iter().zip(ids);
    Ok(CdcEvent {
        id,
        table: shape.table.clone(),
        operation: shape.operation.as_str().to_owned(),
        outcome: shape.outcome.as_str().to_owned(),
        key: key.map(ToOwned::to_owned),
        results: results.map(|(result, event_id)| MappingResult { event_id, ..result.clone() }).collect(),
        lsn: format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF),
        ordinal: ordinal.cast_signed(),
        timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::{AppId, Environment, EventId, MappingId, Scope, mapping::TableName};

    fn change(ordinal: u64, outcome: Outcome, key: Option<&str>) -> NewCdcEvent {
        let routed = outcome == Outcome::Routed;
        NewCdcEvent {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Production),
            source: "s".into(),
            lsn: u64::MAX,
            ordinal,
            table: "sales.orders".parse::<TableName>().unwrap(),
            operation: Operation::Insert,
            key: key.map(str::to_owned),
            results: vec![Verdict {
                mapping: MappingId::from_stored("map_a"),
                outcome,
                topic: routed.then(|| TopicName::parse("orders").unwrap()),
                event_id: routed.then(|| EventId::from_stored(format!("evt_{ordinal}"))),
                reason: (!routed).then(|| "not\0 so".into()),
            }],
            commit_ms: 5,
        }
    }

    fn stored(changes: &[NewCdcEvent]) -> (String, String) {
        let mut chunk = Chunk::default();
        changes.iter().for_each(|change| chunk.push(change));
        assert_eq!(usize::from(chunk.size().unsigned_abs()), changes.len());
        chunk.finish()
    }

    #[test]
    fn what_goes_in_comes_out_the_newest_first() {
        let (shapes, changes) = stored(&[
            change(0, Outcome::Routed, Some("{\"id\":\"a\\\"]\"}")),
            change(1, Outcome::Filtered, None),
            change(2, Outcome::Routed, None),
        ]);
        assert_eq!(serde_json::from_str::<Vec<Shape>>(&shapes).unwrap().len(), 2, "{shapes}");
        let mut found = Vec::new();
        read((7, &shapes, &changes), &CdcEventQuery::default(), 10, &mut found).unwrap();
        assert_eq!(found.iter().map(|e| e.id).collect::<Vec<_>>(), [7 * 1024 + 2, 7 * 1024 + 1, 7 * 1024]);
        let ids: Vec<_> = found.iter().map(|e| e.results[0].event_id.as_deref()).collect();
        assert_eq!(ids, [Some("evt_2"), None, Some("evt_0")]);
        assert_eq!(found[1].results[0].reason.as_deref(), Some("not so"));
        assert_eq!(found[2].key.as_ref().unwrap().get(), "{\"id\":\"a\\\"]\"}");
        assert_eq!((&*found[2].table, &*found[2].lsn), ("sales.orders", "FFFFFFFF/FFFFFFFF"));
        assert!(found.iter().all(|e| chunk_of(e.id) == 7));
    }

    #[test]
    fn a_question_is_answered_up_to_its_limit() {
        let (shapes, changes) = stored(&[
            change(0, Outcome::Routed, None),
            change(1, Outcome::Filtered, None),
            change(2, Outcome::Routed, None),
        ]);
        let ask = |query: CdcEventQuery, limit: usize| {
            let mut found = Vec::new();
            read((1, &shapes, &changes), &query, limit, &mut found).unwrap();
            found.iter().map(|event| event.ordinal).collect::<Vec<_>>()
        };
        let routed = CdcEventQuery { outcome: Some(Outcome::Routed), ..CdcEventQuery::default() };
        assert_eq!(ask(routed.clone(), 10), [2, 0]);
        assert_eq!(ask(routed.clone(), 1), [2]);
        assert_eq!(ask(CdcEventQuery { before: Some(1024 + 2), ..routed }, 10), [0]);
        let other = CdcEventQuery { mapping: Some("map_b".to_owned()), ..CdcEventQuery::default() };
        assert_eq!(ask(other, 10), [0_i64; 0]);
    }

    #[test]
    fn a_chunk_has_an_end() {
        let changes: Vec<_> = (0..1_000).map(|ordinal| change(ordinal, Outcome::Routed, None)).collect();
        let mut chunk = Chunk::default();
        let taken = changes.iter().take_while(|change| {
            let room = !chunk.is_full();
            if room {
                chunk.push(change);
            }
            room
        });
        assert_eq!(taken.count(), CHANGES);
        assert!(chunk.is_full());
        let long = format!("{{\"id\":\"{}\"}}", "x".repeat(BYTES));
        let long = change(0, Outcome::Routed, Some(&long));
        let mut chunk = Chunk::default();
        chunk.push(&long);
        assert!(chunk.is_full());
    }
}
