//! Who wants an event of a topic: an index by filter, so that the work is for the subscriptions that match and not
//! for those that exist.
//!
//! Subscriptions with the same filter and mode form a group. A group with a filter stands in one bucket for each
//! value of *one* of its fields: the field whose buckets are emptiest when the group is made, so that a field that
//! all filters share (`status: active`) does not gather them all in one place.

use crate::{live_event::LiveEvent, outbox::Outbox};
use event_log::TopicKey;
use serde_json::Value;
use shared_types::{
    Filter, ReturnMode, SubscriptionId,
    filter::{FieldPath, Scalar, lookup},
};
use std::sync::{Arc, atomic::AtomicBool};

type HashMap<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// A connection's wish for the events of one topic.
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The topic.
    pub key: TopicKey,
    /// Which events.
    pub filter: Filter,
    /// How much of them.
    pub mode: ReturnMode,
    /// Where they go.
    pub outbox: Arc<Outbox>,
    /// The id of the connection's socket, which does not hear what it says itself.
    pub socket_id: Arc<str>,
    /// Whether it could not be made: its client was told, and nothing holds it any more.
    pub failed: AtomicBool,
}

/// A live subscription.
pub(crate) struct Member {
    pub subscription: Arc<Subscription>,
    /// The last offset that the client knows of.
    pub known: u64,
    /// Whether its connection has further subscriptions on the topic.
    pub several: bool,
}

struct Group {
    filter: Filter,
    mode: ReturnMode,
    members: Vec<Member>,
    /// The field under which it stands in the buckets; `None` without a filter.
    field: Option<usize>,
}

/// The live subscriptions of one topic.
#[derive(Default)]
pub struct Index {
    groups: Vec<Option<Group>>,
    free: Vec<usize>,
    by_filter: HashMap<(Filter, ReturnMode), usize>,
    unfiltered: Vec<usize>,
    buckets: HashMap<FieldPath, HashMap<Scalar, Vec<usize>>>,
    places: HashMap<SubscriptionId, (usize, usize)>,
    by_connection: HashMap<u64, Vec<SubscriptionId>>,
}

impl Index {
    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a subscription that knows everything up to `known`.
    pub fn insert(&mut self, subscription: Arc<Subscription>, known: u64) {
        let group = self.group_for(&subscription);
        let connection = subscription.outbox.connection();
        let siblings = self.by_connection.entry(connection).or_default();
        siblings.push(subscription.id.clone());
        let several = siblings.len() > 1;
        let first = (siblings.len() == 2).then(|| siblings[0].clone());
        let members = &mut self.groups[group].as_mut().expect("the group was just found or made").members;
        self.places.insert(subscription.id.clone(), (group, members.len()));
        members.push(Member { subscription, known, several });
        if let Some(first) = first {
            self.mark(&first, true);
        }
    }

    /// Removes a subscription; answers whether it was there.
    pub fn remove(&mut self, id: &SubscriptionId) -> bool {
        let Some((number, place)) = self.places.remove(id) else { return false };
        let group = self.groups[number].as_mut().expect("a place leads to a group");
        let member = group.members.swap_remove(place);
        if let Some(moved) = group.members.get(place) {
            self.places.insert(moved.subscription.id.clone(), (number, place));
        }
        if group.members.is_empty() {
            self.drop_group(number);
        }
        let connection = member.subscription.outbox.connection();
        if let Some(siblings) = self.by_connection.get_mut(&connection) {
            siblings.retain(|sibling| sibling != id);
            match siblings.as_slice() {
                [] => drop(self.by_connection.remove(&connection)),
                [last] => {
                    let last = last.clone();
                    self.mark(&last, false);
                }
                _ => {}
            }
        }
        true
    }

    fn mark(&mut self, id: &SubscriptionId, several: bool) {
        if let Some(&(group, place)) = self.places.get(id)
            && let Some(group) = &mut self.groups[group]
        {
            group.members[place].several = several;
        }
    }

    fn group_for(&mut self, subscription: &Subscription) -> usize {
        let wanted = (subscription.filter.clone(), subscription.mode);
        if let Some(&number) = self.by_filter.get(&wanted) {
            return number;
        }
        let field = self.choose_field(&subscription.filter);
        let group = Group { filter: wanted.0.clone(), mode: wanted.1, members: Vec::new(), field };
        let number = match self.free.pop() {
            Some(number) => {
                self.groups[number] = Some(group);
                number
            }
            None => {
                self.groups.push(Some(group));
                self.groups.len() - 1
            }
        };
        match field {
            None => self.unfiltered.push(number),
            Some(field) => {
                let (path, values) = &wanted.0.fields()[field];
                let buckets = self.buckets.entry(path.clone()).or_default();
                for value in values {
                    buckets.entry(value.clone()).or_default().push(number);
                }
            }
        }
        self.by_filter.insert(wanted, number);
        number
    }

    /// The field whose buckets hold the fewest groups now; among equals the one with the fewest values.
    fn choose_field(&self, filter: &Filter) -> Option<usize> {
        let crowd = |path: &FieldPath, values: &[Scalar]| -> usize {
            let Some(buckets) = self.buckets.get(path) else { return 0 };
            values.iter().filter_map(|value| buckets.get(value)).map(Vec::len).sum()
        };
        let fields = filter.fields().iter().enumerate();
        fields.min_by_key(|(_, (path, values))| (crowd(path, values), values.len())).map(|(field, _)| field)
    }

    fn drop_group(&mut self, number: usize) {
        let Some(group) = self.groups[number].take() else { return };
        self.free.push(number);
        match group.field {
            None => self.unfiltered.retain(|&other| other != number),
            Some(field) => {
                let (path, values) = &group.filter.fields()[field];
                if let Some(buckets) = self.buckets.get_mut(path) {
                    for value in values {
                        if let Some(bucket) = buckets.get_mut(value) {
                            bucket.retain(|&other| other != number);
                            if bucket.is_empty() {
                                buckets.remove(value);
                            }
                        }
                    }
                    if buckets.is_empty() {
                        self.buckets.remove(path);
                    }
                }
            }
        }
        self.by_filter.remove(&(group.filter, group.mode));
    }

    /// The groups whose filter lets `event` through.
    pub(crate) fn matching(&self, event: &LiveEvent) -> Vec<usize> {
        self.matching_payload(|| event.payload())
    }

    /// The groups whose filter lets a payload through, which is asked for only where there are filters.
    pub(crate) fn matching_payload<'a>(&self, payload: impl Fn() -> &'a Value) -> Vec<usize> {
        let mut matched = self.unfiltered.clone();
        for (path, buckets) in &self.buckets {
            let Some(value) = lookup(payload(), path).and_then(Scalar::of) else { continue };
            let Some(bucket) = buckets.get(&value) else { continue };
            matched.extend(bucket.iter().copied().filter(|&number| {
                let group = self.groups[number].as_ref().expect("a bucket leads to a group");
                group.filter.fields().len() == 1 || group.filter.matches(payload())
            }));
        }
        matched
    }

    /// The members of a group, to deliver to.
    pub(crate) fn members(&mut self, group: usize) -> &mut [Member] {
        self.groups[group].as_mut().map_or(&mut [], |group| &mut group.members)
    }

    /// All members.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.groups.iter_mut().flatten().flat_map(|group| &mut group.members)
    }

    /// How many subscriptions an event would reach: for tests and the debugger.
    pub fn count_matching(&self, event: &LiveEvent) -> usize {
        self.matching(event).iter().filter_map(|&g| self.groups[g].as_ref()).map(|g| g.members.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::OutboxLimits;
    use event_log::StoredEvent;
    use proptest::prelude::*;
    use serde_json::json;
    use shared_types::{AppId, Environment, EventId, Position, RawObject, Scope, Source, TopicName};

    fn key() -> TopicKey {
        TopicKey {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
            topic: TopicName::parse("a.b").expect("valid"),
        }
    }

    fn subscription(filter: &Value, outbox: &Arc<Outbox>) -> Arc<Subscription> {
        Arc::new(Subscription {
            id: SubscriptionId::generate(),
            key: key(),
            filter: Filter::parse(filter).expect("a valid filter"),
            mode: ReturnMode::Full,
            outbox: outbox.clone(),
            socket_id: "sock_test".into(),
            failed: AtomicBool::new(false),
        })
    }

    fn event(payload: &Value) -> LiveEvent {
        LiveEvent::new(Arc::new(StoredEvent {
            key: key(),
            position: Position::new("e", 1),
            id: EventId::from_stored("evt_1"),
            source: Source::Socket,
            kind: "message".into(),
            payload: RawObject::from_trusted(payload.to_string()),
            metadata: RawObject::from_trusted("{\"timestamp\":1}"),
        }))
    }

    #[test]
    fn a_shared_field_does_not_gather_all_filters_in_one_bucket() {
        let mut index = Index::default();
        let outbox = Outbox::new(OutboxLimits::default());
        for user in 0..1000 {
            index.insert(subscription(&json!({"status": "active", "userId": user}), &outbox), 0);
        }
        let largest = index.buckets.values().flat_map(HashMap::values).map(Vec::len).max();
        assert!(largest < Some(10), "{largest:?}");
        assert_eq!(index.count_matching(&event(&json!({"status": "active", "userId": 7}))), 1);
    }

    #[test]
    fn siblings_on_one_connection_know_of_each_other() {
        let mut index = Index::default();
        let outbox = Outbox::new(OutboxLimits::default());
        let (a, b) = (subscription(&json!({}), &outbox), subscription(&json!({"x": 1}), &outbox));
        index.insert(a.clone(), 0);
        assert!(index.all().all(|member| !member.several));
        index.insert(b.clone(), 0);
        assert!(index.all().all(|member| member.several));
        assert!(index.remove(&a.id) && !index.remove(&a.id));
        assert!(index.all().all(|member| !member.several));
        assert!(index.remove(&b.id) && index.is_empty() && index.buckets.is_empty());
    }

    fn filters() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![Just(json!(1)), Just(json!(2)), Just(json!("a")), Just(json!(null))];
        let wanted = prop_oneof![
            scalar.clone(),
            prop::collection::vec(scalar, 1..3).prop_map(|values| json!({ "in": values }))
        ];
        prop::collection::btree_map(prop_oneof![Just("p"), Just("q"), Just("r.s")], wanted, 0..3)
            .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
    }

    fn payloads() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(json!(1.0)),
            Just(json!(2)),
            Just(json!("a")),
            Just(json!(null)),
            Just(json!([1]))
        ];
        (prop::option::of(scalar.clone()), prop::option::of(scalar.clone()), prop::option::of(scalar))
            .prop_map(|(p, q, s)| {
                let mut payload = serde_json::Map::new();
                p.map(|v| payload.insert("p".to_owned(), v));
                q.map(|v| payload.insert("q".to_owned(), v));
                s.map(|v| payload.insert("r".to_owned(), json!({ "s": v })));
                Value::Object(payload)
            })
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_the_filter(
            wanted in prop::collection::vec(filters(), 0..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            payload in payloads(),
        ) {
            let outbox = Outbox::new(OutboxLimits::default());
            let mut index = Index::default();
            let mut kept: Vec<_> = wanted.iter().map(|filter| subscription(filter, &outbox)).collect();
            kept.iter().for_each(|s| index.insert(s.clone(), 0));
            for place in removed {
                if !kept.is_empty() {
                    let gone = kept.swap_remove(place.index(kept.len()));
                    prop_assert!(index.remove(&gone.id));
                }
            }
            let event = event(&payload);
            let expected = kept.iter().filter(|s| s.filter.matches(event.payload())).count();
            prop_assert_eq!(index.count_matching(&event), expected);
        }
    }
}
