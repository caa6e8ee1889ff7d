//! Decides what becomes of each entry of a batch, given what is stored: pure, under the partitions' locks.

use event_log::{Entry, Identity, LogError, Outcome, SourcePosition, StoredEvent, TopicKey};
use sha2::{Digest, Sha256};
use shared_types::Position;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A publisher's id, in its topic.
pub type IdKey = (TopicKey, Arc<str>, String);

/// A remembered publisher's id.
#[derive(Clone, Debug)]
pub struct Known {
    /// Hash of the content.
    pub fingerprint: Vec<u8>,
    /// Where it was appended.
    pub position: Position,
}

/// How far a source has been appended in a partition.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// The highest term that has appended.
    pub term: u64,
    /// The highest position.
    pub at: SourcePosition,
    /// Whether this batch has moved it.
    pub moved: bool,
}

/// Where a topic stands.
#[derive(Clone, Debug)]
pub struct Head {
    /// The number that stands for the topic and its epoch.
    pub id: i64,
    /// The last event's place.
    pub position: Position,
}

/// What is stored of everything that a batch touches.
#[derive(Default)]
pub struct Stored {
    /// Last sequence of each partition.
    pub sequences: BTreeMap<u16, u64>,
    /// How often topics of each partition got a new epoch while they had one.
    pub renewals: BTreeMap<u16, i64>,
    /// Head of each topic.
    pub topics: HashMap<TopicKey, Head>,
    /// Sources by partition.
    pub sources: HashMap<(u16, Arc<str>), SourceState>,
    /// Publishers' ids.
    pub ids: HashMap<IdKey, Known>,
}

/// One event to insert.
pub struct Insert {
    /// Its partition.
    pub partition: u16,
    /// Its number there.
    pub sequence: u64,
    /// The number that stands for its topic and epoch.
    pub topic: i64,
    /// The event with its place in the topic.
    pub event: Arc<StoredEvent>,
}

/// What a batch does.
#[derive(Default)]
pub struct Plan {
    /// Events to insert, by partition in order.
    pub inserts: Vec<Insert>,
    /// Publishers' ids to remember.
    pub ids: Vec<(IdKey, Known)>,
    /// Bytes added by partition.
    pub bytes: BTreeMap<u16, u64>,
}

/// Hash of what must be the same when an id is used again.
pub fn fingerprint(entry: &Entry) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(entry.kind.as_bytes());
    hash.update([0]);
    hash.update(entry.payload.as_str());
    hash.finalize()[..16].to_vec()
}

/// Adds one request to the plan, all of it or nothing; moves `stored` forward by what it appends.
pub fn add(
    plan: &mut Plan,
    stored: &mut Stored,
    entries: &[Entry],
    partition_of: impl Fn(&TopicKey) -> u16,
) -> Result<Vec<Outcome>, LogError> {
    refuse(stored, entries, &partition_of)?;
    let mut outcomes = Vec::with_capacity(entries.len());
    let mut last: Option<(&TopicKey, u16)> = None;
    for entry in entries {
        // Entries of one topic mostly stand together.
        let partition = match last {
            Some((key, partition)) if *key == entry.key => partition,
            _ => partition_of(&entry.key),
        };
        last = Some((&entry.key, partition));
        outcomes.push(match repeated(stored, entry, partition) {
            Some(outcome) => outcome,
            None => insert(plan, stored, entry, partition),
        });
    }
    Ok(outcomes)
}

/// Finds what refuses the request as a whole, before anything of it is planned.
fn refuse(
    stored: &Stored,
    entries: &[Entry],
    partition_of: impl Fn(&TopicKey) -> u16,
) -> Result<(), LogError> {
    let mut within: HashMap<IdKey, Vec<u8>> = HashMap::new();
    let mut last: Option<(&TopicKey, &Arc<str>, u64)> = None;
    for entry in entries {
        match &entry.identity {
            Identity::Unique => {}
            Identity::Keyed { producer } => {
                let key = id_key(entry, producer);
                let ours = fingerprint(entry);
                let theirs =
                    within.get(&key).or_else(|| stored.ids.get(&key).map(|known| &known.fingerprint));
                if theirs.is_some_and(|theirs| *theirs != ours) {
                    return Err(LogError::IdConflict { id: entry.id.to_string() });
                }
                within.insert(key, ours);
            }
            Identity::Positioned { source, term, .. } => {
                if last.replace((&entry.key, source, *term)) == Some((&entry.key, source, *term)) {
                    continue;
                }
                if let Some(state) = stored.sources.get(&(partition_of(&entry.key), source.clone()))
                    && state.term > *term
                {
                    let source_name = source.to_string();
                    return Err(LogError::Fenced { source_name, ours: *term, theirs: state.term });
                }
            }
        }
    }
    Ok(())
}

fn id_key(entry: &Entry, producer: &Arc<str>) -> IdKey {
    (entry.key.clone(), producer.clone(), entry.id.to_string())
}

fn repeated(stored: &Stored, entry: &Entry, partition: u16) -> Option<Outcome> {
    match &entry.identity {
        Identity::Unique => None,
        Identity::Keyed { producer } => stored
            .ids
            .get(&id_key(entry, producer))
            .map(|known| Outcome::Repeated(Some(known.position.clone()))),
        Identity::Positioned { source, at, .. } => stored
            .sources
            .get(&(partition, source.clone()))
            .is_some_and(|state| *at <= state.at)
            .then_some(Outcome::Repeated(None)),
    }
}

fn insert(plan: &mut Plan, stored: &mut Stored, entry: &Entry, partition: u16) -> Outcome {
    let head = stored.topics.get_mut(&entry.key).expect("every topic of a batch is loaded before planning");
    head.position.offset += 1;
    let (topic, position) = (head.id, head.position.clone());
    let sequence = stored.sequences.get_mut(&partition).expect("every partition of a batch is locked");
    *sequence += 1;
    match &entry.identity {
        Identity::Unique => {}
        Identity::Keyed { producer } => {
            let known = Known { fingerprint: fingerprint(entry), position: position.clone() };
            stored.ids.insert(id_key(entry, producer), known.clone());
            plan.ids.push((id_key(entry, producer), known));
        }
        Identity::Positioned { source, term, at } => {
            let state = SourceState { term: *term, at: at.clone(), moved: true };
            stored.sources.insert((partition, source.clone()), state);
        }
    }
    *plan.bytes.entry(partition).or_default() += entry.size() as u64;
    let event = Arc::new(StoredEvent::new(entry, position.clone()));
    plan.inserts.push(Insert { partition, sequence: *sequence, topic, event });
    Outcome::Appended(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::{AppId, Environment, EventId, MappingId, RawObject, Scope, Source, TopicName};

    fn key() -> TopicKey {
        TopicKey {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
            topic: TopicName::parse("a.b").expect("valid"),
        }
    }

    fn entry(id: &str, payload: &str, identity: Identity) -> Entry {
        Entry {
            key: key(),
            id: EventId::from_stored(id),
            source: Source::Socket,
            kind: "message".into(),
            payload: RawObject::from_trusted(payload),
            metadata: RawObject::from_trusted("{\"timestamp\":1}"),
            identity,
        }
    }

    fn stored() -> Stored {
        Stored {
            sequences: BTreeMap::from([(0, 7)]),
            topics: HashMap::from([(key(), Head { id: 1, position: Position::new("e", 3) })]),
            ..Stored::default()
        }
    }

    fn keyed() -> Identity {
        Identity::Keyed { producer: "client:a".into() }
    }

    fn at(term: u64, lsn: u64, ordinal: u64) -> Identity {
        let at = SourcePosition { lsn, ordinal, mapping: MappingId::from_stored("map_1") };
        Identity::Positioned { source: "s".into(), term, at }
    }

    #[test]
    fn numbers_entries_without_gaps() {
        let (mut plan, mut stored) = (Plan::default(), stored());
        let entries = [entry("a", "{}", Identity::Unique), entry("b", "{}", Identity::Unique)];
        let outcomes = add(&mut plan, &mut stored, &entries, |_| 0).expect("planned");
        assert_eq!(outcomes[1], Outcome::Appended(Position::new("e", 5)));
        assert_eq!(plan.inserts.iter().map(|i| i.sequence).collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn a_repeated_id_answers_the_first_result_and_other_content_is_refused_whole() {
        let (mut plan, mut stored) = (Plan::default(), stored());
        add(&mut plan, &mut stored, &[entry("a", "{}", keyed())], |_| 0).expect("planned");
        let again = add(&mut plan, &mut stored, &[entry("a", "{}", keyed())], |_| 0).expect("planned");
        assert_eq!(again, [Outcome::Repeated(Some(Position::new("e", 4)))]);
        let batch = [entry("new", "{}", keyed()), entry("a", "{\"x\":1}", keyed())];
        assert!(matches!(add(&mut plan, &mut stored, &batch, |_| 0), Err(LogError::IdConflict { .. })));
        assert_eq!(plan.inserts.len(), 1, "nothing of a refused batch is planned");
    }

    #[test]
    fn positions_only_grow_and_a_lower_term_is_fenced() {
        let (mut plan, mut stored) = (Plan::default(), stored());
        add(&mut plan, &mut stored, &[entry("a", "{}", at(2, 10, 0)), entry("b", "{}", at(2, 10, 1))], |_| 0)
            .expect("planned");
        let again = add(&mut plan, &mut stored, &[entry("b", "{}", at(3, 10, 1))], |_| 0).expect("planned");
        assert_eq!(again, [Outcome::Repeated(None)]);
        let fenced = add(&mut plan, &mut stored, &[entry("c", "{}", at(1, 11, 0))], |_| 0);
        assert!(matches!(fenced, Err(LogError::Fenced { ours: 1, theirs: 2, .. })));
    }
}
