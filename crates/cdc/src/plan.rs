//! What the reader evaluates: the active mappings of a target, fitted to the relations that the stream describes.

use crate::{
    evaluate::{CompiledMapping, Decision, Filtered},
    pgoutput::{Malformed, Message},
    recorder::{self, Recorder},
    row::{Relation, RowChange},
    values::OwnTypes,
};
use bytes::Bytes;
use database::tables::{
    cdc_events::{MappingResult, NewCdcEvent, Outcome},
    mappings::Mapping,
};
use event_log::{Identity, SourcePosition};
use event_router::Routed;
use shared_types::{Draft, EventId, MappingId, Operation, Scope, Source, TopicName, ids::derived_id};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

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
    /// The slot.
    pub slot: &'a str,
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
    kinds: [Arc<str>; 3],
}

impl Relations {
    /// None described yet.
    pub fn new(plan: Arc<Plan>) -> Self {
        let kinds = [Operation::Insert, Operation::Update, Operation::Delete];
        Self {
            plan,
            described: HashMap::new(),
            has_news: false,
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
            .map(|mapping| Fitted::new(mapping, &relation))
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
        let mut describing = witness.recorder.wants().then(Vec::new);
        for fitted in &described.fitted {
            let decision = fitted.compiled.evaluate(&change);
            if let Some(results) = &mut describing {
                fitted.describe(&decision, place, results);
            }
            match decision {
                Decision::Fires { payload, metadata } => {
                    let draft = Draft {
                        topic: fitted.topic.clone(),
                        source: Source::Database,
                        kind: self.kinds[operation as usize].clone(),
                        payload,
                        id: Some(place.event_id(&fitted.position)),
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
        if let Some(results) = describing {
            place.record(&change, results, witness.recorder);
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
    fn new(mapping: &Mapping, relation: &Relation) -> Self {
        Self {
            compiled: CompiledMapping::new(&mapping.definition, relation),
            scope: mapping.scope.clone(),
            mapping: mapping.id.clone(),
            position: MappingId::from_stored(format!("{}@{}", mapping.id, mapping.scope)),
            topic: mapping.definition.topic.clone(),
        }
    }

    /// Adds what became of a change, unless the mapping does not look at such changes.
    fn describe(&self, decision: &Decision, place: &Place<'_>, results: &mut Vec<(Scope, MappingResult)>) {
        let (outcome, reason) = match decision {
            Decision::Fires { .. } => (Outcome::Routed, None),
            Decision::Filtered(Filtered::Operation) => return,
            Decision::Filtered(filtered) => (Outcome::Filtered, Some(filtered.reason().to_owned())),
            Decision::Failed(reason) => (Outcome::Failed, Some(reason.clone())),
        };
        let routed = outcome == Outcome::Routed;
        let result = MappingResult {
            mapping_id: self.mapping.to_string(),
            outcome,
            topic: routed.then(|| self.topic.to_string()),
            event_id: routed.then(|| place.event_id(&self.position).to_string()),
            reason,
        };
        results.push((self.scope.clone(), result));
    }

    fn fit(&self, relation: &Relation) -> Fit {
        let misfit = self.compiled.misfit(relation);
        Fit { scope: self.scope.clone(), mapping: self.mapping.clone(), misfit }
    }
}

impl Place<'_> {
    /// Hands what became of a change to the recorder, for each scope that looked at it.
    fn record(&self, change: &RowChange<'_>, results: Vec<(Scope, MappingResult)>, recorder: &mut Recorder) {
        let mut by_scope: BTreeMap<Scope, Vec<MappingResult>> = BTreeMap::new();
        for (scope, result) in results {
            by_scope.entry(scope).or_default().push(result);
        }
        for (scope, results) in by_scope {
            recorder.take(NewCdcEvent {
                scope,
                source: self.source.clone(),
                lsn: self.lsn,
                ordinal: self.ordinal,
                table: change.relation.table.to_string(),
                operation: change.operation,
                key: recorder::key(change),
                results,
                commit_ms: self.commit_ms,
            });
        }
    }

    fn event_id(&self, position: &MappingId) -> EventId {
        let (lsn, ordinal) = (self.lsn.to_be_bytes(), self.ordinal.to_be_bytes());
        let parts = [self.slot.as_bytes(), &lsn, &ordinal, position.as_str().as_bytes()];
        EventId::from_stored(derived_id("evt", u64::try_from(self.commit_ms).unwrap_or(0), &parts))
    }

    fn identity(&self, position: &MappingId) -> Identity {
        Identity::Positioned {
            source: self.source.clone(),
            term: self.term,
            at: SourcePosition { lsn: self.lsn, ordinal: self.ordinal, mapping: position.clone() },
        }
    }
}
