//! What the reader evaluates: the active mappings of a target, fitted to the relations that the stream describes.

use crate::{
    evaluate::{CompiledMapping, Decision, Filtered},
    pgoutput::{Malformed, Message},
    recorder::Recorder,
    row::{Relation, RowChange},
    values::OwnTypes,
};
use bytes::Bytes;
use database::tables::{
    cdc_events::{Outcome, Verdict},
    mappings::Mapping,
};
use event_log::{Identity, SourcePosition};
use event_router::Routed;
use sha2::{Digest, Sha256};
use shared_types::{Draft, EventId, MappingId, Operation, Scope, Source, TopicName, ids::derived_id};
use std::{collections::HashMap, sync::Arc};

/// The mappings of a target.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// All active ones.
    pub mappings: Vec<Mapping>,
    /// What the database's own types stand for.
    pub own_types: OwnTypes,
}

impl Plan {
    /// Whether it is made of exactly `mappings`, in their present versions.
    pub fn holds(&self, mappings: &[Mapping]) -> bool {
        let same =
            |(a, b): (&Mapping, &Mapping)| a.scope == b.scope && a.id == b.id && a.version == b.version;
        self.mappings.len() == mappings.len() && self.mappings.iter().zip(mappings).all(same)
    }
}

/// Where a change stands in its source.
pub(crate) struct Place<'a> {
    /// System identifier, timeline and slot creation.
    pub source: &'a Arc<str>,
    /// The leader's term.
    pub term: u64,
    /// The commit's place in the log.
    pub lsn: u64,
    /// When it was committed, Unix milliseconds.
    pub commit_ms: i64,
    /// The change's number within the transaction.
    pub ordinal: u64,
}

/// A mapping, fitted to a relation.
struct Fitted {
    compiled: CompiledMapping,
    scope: Scope,
    mapping: MappingId,
    /// Tells this mapping from all others of the target: the id alone is the same in several environments.
    position: MappingId,
    /// What its events' ids of one slot have in common.
    seed: [u8; 16],
    topic: TopicName,
}

struct Described {
    message: Bytes,
    relation: Relation,
    fitted: Vec<Fitted>,
}

/// Whether a mapping fits its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub scope: Scope,
    pub mapping: MappingId,
    /// What does not fit.
    pub misfit: Option<String>,
}

/// The relations of a stream with the mappings that look at them.
pub(crate) struct Relations {
    plan: Arc<Plan>,
    described: HashMap<u32, Described>,
    has_news: bool,
    slot: String,
    kinds: [Arc<str>; 3],
}

impl Relations {
    /// Those of a stream of `slot`, none described yet.
    pub fn new(plan: Arc<Plan>, slot: &str) -> Self {
        let kinds = [Operation::Insert, Operation::Update, Operation::Delete];
        Self {
            plan,
            described: HashMap::new(),
            has_news: false,
            slot: slot.to_owned(),
            kinds: kinds.map(|operation| format!("database.{operation}").into()),
        }
    }

    /// From here on `plan` holds. Answers how its mappings fit the tables that are described.
    pub fn adopt(&mut self, plan: Arc<Plan>) -> Result<Vec<Fit>, Malformed> {
        self.plan = plan;
        self.has_news = false;
        let messages: Vec<Bytes> = self.described.drain().map(|(_, described)| described.message).collect();
        let mut fits = Vec::new();
        for message in messages {
            fits.extend(self.describe(message)?);
        }
        Ok(fits)
    }

    /// From here on the database's own types are `own`; see [`Relations::adopt`].
    pub fn learn(&mut self, own: OwnTypes) -> Result<Vec<Fit>, Malformed> {
        let fits = self.adopt(Arc::new(Plan { mappings: self.plan.mappings.clone(), own_types: own }))?;
        // What is still not known has gone since.
        self.has_news = false;
        Ok(fits)
    }

    /// Whether a described table has a type of the database's own that was not there when the types were asked for.
    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// Takes in a relation message. Answers how its mappings fit.
    pub fn describe(&mut self, message: Bytes) -> Result<Vec<Fit>, Malformed> {
        let Message::Relation(parsed) = Message::parse(&message)? else { return Ok(Vec::new()) };
        self.has_news |= parsed.types().any(|oid| !self.plan.own_types.covers(oid));
        let relation = parsed.to_relation(&self.plan.own_types);
        let mut fitted: Vec<Fitted> = self
            .plan
            .mappings
            .iter()
            .filter(|mapping| mapping.definition.table == relation.table)
            .map(|mapping| Fitted::new(mapping, &relation, &self.slot))
            .collect();
        // Positions within one change only grow in this order.
        fitted.sort_by(|a, b| a.position.cmp(&b.position));
        let fits = fitted.iter().map(|fitted| fitted.fit(&relation)).collect();
        self.described.insert(relation.oid, Described { message, relation, fitted });
        Ok(fits)
    }

    /// The relation of a row change.
    pub fn of(&self, message: &Message<'_>) -> Option<&Relation> {
        let (Message::Insert { relation, .. }
        | Message::Update { relation, .. }
        | Message::Delete { relation, .. }) = message
        else {
            return None;
        };
        self.described.get(relation).map(|described| &described.relation)
    }

    /// Hands every event that the row change makes to `take`, in the order of their positions.
    pub fn evaluate(
        &self,
        message: &Message<'_>,
        place: &Place<'_>,
        witness: &mut Witness<'_>,
        mut take: impl FnMut(Routed),
    ) {
        let (oid, operation) = match message {
            Message::Insert { relation, .. } => (relation, Operation::Insert),
            Message::Update { relation, .. } => (relation, Operation::Update),
            Message::Delete { relation, .. } => (relation, Operation::Delete),
            _ => return,
        };
        let Some(described) = self.described.get(oid) else { return };
        let change = match message {
            Message::Insert { new, .. } => (new.as_slice(), crate::row::OldRow::None),
            Message::Update { new, old, .. } => (new.as_slice(), old.as_row()),
            Message::Delete { old, .. } => (&[][..], old.as_row()),
            _ => return,
        };
        let change = RowChange { relation: &described.relation, operation, new: change.0, old: change.1 };
        if described.fitted.is_empty() {
            return;
        }
        let describes = witness.recorder.wants();
        for fitted in &described.fitted {
            let decision = fitted.compiled.evaluate(&change);
            let fires = matches!(decision, Decision::Fires { .. });
            let id = fires.then(|| place.event_id(fitted.seed));
            if describes && let Some(verdict) = fitted.verdict(&decision, id.clone()) {
                witness.recorder.note(&change, place, &fitted.scope, verdict);
            }
            match decision {
                Decision::Fires { payload, metadata } => {
                    let draft = Draft {
                        topic: fitted.topic.clone(),
                        source: Source::Database,
                        kind: self.kinds[operation as usize].clone(),
                        payload,
                        id,
                        timestamp_ms: Some(place.commit_ms),
                        extra_metadata: metadata,
                    };
                    let identity = place.identity(&fitted.position);
                    take(Routed { scope: fitted.scope.clone(), draft, identity });
                }
                Decision::Filtered(Filtered::Operation) => {}
                Decision::Filtered(_) => witness.tally.filtered += 1,
                Decision::Failed(_) => witness.tally.failed += 1,
            }
        }
    }
}

/// Who watches what becomes of changes.
pub(crate) struct Witness<'a> {
    /// Counts those that made no event.
    pub tally: &'a mut Tally,
    /// Writes all down.
    pub recorder: &'a mut Recorder,
}

/// What became of changes that made no event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// A rule of the mapping held them back.
    pub filtered: u64,
    /// The mapping does not fit its table.
    pub failed: u64,
}

impl Fitted {
    fn new(mapping: &Mapping, relation: &Relation, slot: &str) -> Self {
        let position = format!("{}@{}", mapping.id, mapping.scope);
        Self {
            compiled: CompiledMapping::new(&mapping.definition, relation),
            scope: mapping.scope.clone(),
            mapping: mapping.id.clone(),
            seed: seed(slot, &position),
            position: MappingId::from_stored(position),
            topic: mapping.definition.topic.clone(),
        }
    }

    /// What became of a change, unless the mapping does not look at such changes.
    fn verdict(&self, decision: &Decision, event_id: Option<EventId>) -> Option<Verdict> {
        let (outcome, reason) = match decision {
            Decision::Fires { .. } => (Outcome::Routed, None),
            Decision::Filtered(Filtered::Operation) => return None,
            Decision::Filtered(filtered) => (Outcome::Filtered, Some(filtered.reason().into())),
            Decision::Failed(reason) => (Outcome::Failed, Some(reason.clone().into())),
        };
        let topic = (outcome == Outcome::Routed).then(|| self.topic.clone());
        Some(Verdict { mapping: self.mapping.clone(), outcome, topic, event_id, reason })
    }

    fn fit(&self, relation: &Relation) -> Fit {
        let misfit = self.compiled.misfit(relation);
        Fit { scope: self.scope.clone(), mapping: self.mapping.clone(), misfit }
    }
}

impl Place<'_> {
    /// The same for each (slot, mapping, commit, change): an event that is made again has the same id.
    fn event_id(&self, seed: [u8; 16]) -> EventId {
        let mut change = [0; 16];
        change[..8].copy_from_slice(&self.lsn.to_be_bytes());
        change[8..].copy_from_slice(&self.ordinal.to_be_bytes());
        // Two parts of 16 bytes are one block of the hash; it is computed for every event.
        let time = u64::try_from(self.commit_ms).unwrap_or(0);
        EventId::from_stored(derived_id("evt", time, &[&seed, &change]))
    }

    fn identity(&self, position: &MappingId) -> Identity {
        Identity::Positioned {
            source: self.source.clone(),
            term: self.term,
            at: SourcePosition { lsn: self.lsn, ordinal: self.ordinal, mapping: position.clone() },
        }
    }
}

/// What the ids of a mapping's events have in common.
fn seed(slot: &str, position: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [slot, position] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut seed = [0; 16];
    seed.copy_from_slice(&hash.finalize()[..16]);
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_slot_mapping_commit_and_change() {
        let source: Arc<str> = "s".into();
        let id = |slot: &str, position: &str, lsn: u64, ordinal: u64| {
            let place = Place { source: &source, term: 1, lsn, commit_ms: 1_700_000_000_000, ordinal };
            place.event_id(seed(slot, position)).to_string()
        };
        let first = id("slot", "map_a@app_a:staging", 1, 2);
        assert_eq!(first, id("slot", "map_a@app_a:staging", 1, 2));
        let others = [
            id("slo", "tmap_a@app_a:staging", 1, 2),
            id("slot", "map_a@app_a:production", 1, 2),
            id("slot", "map_a@app_a:staging", 2, 2),
            id("slot", "map_a@app_a:staging", 1, 3),
            id("slot", "map_a@app_a:staging", 2, 1),
        ];
        assert!(
            others.iter().all(|other| *other != first && other[..14] == first[..14]),
            "{first} {others:?}"
        );
    }
}
