//! What every implementation must do, as tests that run on two instances over one store.
//!
//! An implementation's test crate calls each function with two freshly started instances that share a store; the
//! macro [`contract_tests!`](crate::contract_tests) writes out one test for each.

use crate::{
    Entry, EventLog, HistoryQuery, Identity, LogError, Message, Outcome, PageLimit, Reach, SourcePosition,
    Start, StoredEvent, TopicKey,
};
use shared_types::{AppId, Environment, EventId, MappingId, Position, RawObject, Scope, Source, TopicName};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// One of the instances under test.
pub type Log = Arc<dyn EventLog>;

const PATIENCE: Duration = Duration::from_secs(20);

/// Writes a `#[tokio::test]` for each part of the contract; `$start` is an async function that answers a guard that
/// keeps the store alive and two instances over it.
#[macro_export]
macro_rules! contract_tests {
    ($start:path) => {
        $crate::contract_tests!(
            $start;
            numbers_without_gaps,
            calls_keep_their_order,
            one_order_over_instances,
            a_batch_is_all_or_nothing,
            publishers_ids_are_recognized,
            positions_are_recognized_and_fenced,
            a_new_epoch_is_begun_and_said,
            history_pages,
            watching_misses_nothing,
            scopes_are_apart,
            messages_reach_those_who_follow,
            side_effects_are_read_until_acknowledged,
        );
    };
    ($start:path; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (_guard, first, second) = $start().await;
                $crate::contract::$name(first, second).await;
            }
        )*
    };
}

fn key(application: &str, topic: &str) -> TopicKey {
    TopicKey {
        scope: Scope::new(AppId::from_stored(application), Environment::Development),
        topic: TopicName::parse(topic).expect("a valid topic"),
    }
}

fn entry(key: &TopicKey, id: &str, number: u64, identity: Identity) -> Entry {
    Entry {
        key: key.clone(),
        id: EventId::from_stored(id),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::from_trusted(format!("{{\"n\":{number}}}")),
        metadata: RawObject::from_trusted("{\"timestamp\":1}"),
        identity,
    }
}

fn unique(key: &TopicKey, number: u64) -> Entry {
    entry(key, EventId::generate().as_str(), number, Identity::Unique)
}

async fn append(log: &Log, entries: Vec<Entry>) -> Vec<Outcome> {
    log.append(entries).await.expect("appended")
}

fn after(position: Position, events: usize, bytes: usize) -> HistoryQuery {
    HistoryQuery { start: Start::After(position), until: None, limit: PageLimit { events, bytes } }
}

async fn whole(log: &Log, key: &TopicKey) -> Vec<Arc<StoredEvent>> {
    let head = log.head(key).await.expect("head");
    let page = log.history(key, after(Position::new(head.epoch, 0), 100_000, usize::MAX >> 1)).await;
    page.expect("history").events
}

fn offsets(events: &[Arc<StoredEvent>]) -> Vec<u64> {
    events.iter().map(|event| event.position.offset).collect()
}

/// Offsets begin at 1 and grow by 1 in one epoch, over calls and instances.
pub async fn numbers_without_gaps(first: Log, second: Log) {
    let key = key("app_a", "order.updated");
    let head = first.head(&key).await.expect("head");
    assert_eq!(head.offset, 0);
    for (number, log) in [&first, &second, &first].into_iter().enumerate() {
        let outcomes =
            append(log, vec![unique(&key, 2 * number as u64), unique(&key, 2 * number as u64 + 1)]).await;
        let expected = 2 * number as u64 + 2;
        assert_eq!(outcomes[1], Outcome::Appended(Position::new(head.epoch.clone(), expected)));
    }
    assert_eq!(offsets(&whole(&second, &key).await), [1, 2, 3, 4, 5, 6]);
}

/// Calls of one task take effect in their order if each is polled once before the next, however many there are in
/// one turn of the task.
pub async fn calls_keep_their_order(first: Log, second: Log) {
    let key = key("app_a", "order.updated");
    let mut calls = Vec::new();
    for number in 0..1_000 {
        let mut call = first.append(vec![unique(&key, number)]);
        let polled = futures::poll!(&mut call);
        assert!(polled.is_pending(), "nothing is durable at once");
        calls.push(call);
    }
    // Waited for in another order than they were made.
    calls.reverse();
    for outcome in futures::future::join_all(calls).await {
        outcome.expect("appended");
    }
    let numbers: Vec<String> =
        whole(&second, &key).await.iter().map(|e| e.payload.as_str().to_owned()).collect();
    assert_eq!(numbers, (0..1_000).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
}

/// Concurrent appends through both instances end in one order, and both live readers see it whole.
pub async fn one_order_over_instances(first: Log, second: Log) {
    const EACH: u64 = 200;
    let key = key("app_a", "order.updated");
    let (mut a, mut b) = (first.live(), second.live());
    a.watch.watch(vec![key.clone()]).await.expect("watched");
    b.watch.watch(vec![key.clone()]).await.expect("watched");
    let writers = [first.clone(), second.clone()].map(|log| {
        let key = key.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                append(&log, vec![unique(&key, number)]).await;
            }
        })
    });
    let (seen_a, seen_b) = (collect(&mut a.events, 2 * EACH).await, collect(&mut b.events, 2 * EACH).await);
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let ids = |events: &[Arc<StoredEvent>]| events.iter().map(|e| e.id.to_string()).collect::<Vec<_>>();
    assert_eq!(offsets(&seen_a), (1..=2 * EACH).collect::<Vec<_>>());
    assert_eq!(ids(&seen_a), ids(&seen_b));
    assert_eq!(ids(&seen_a), ids(&whole(&first, &key).await));
}

async fn collect(events: &mut mpsc::Receiver<Vec<Arc<StoredEvent>>>, count: u64) -> Vec<Arc<StoredEvent>> {
    let mut seen = Vec::new();
    while (seen.len() as u64) < count {
        let batch = tokio::time::timeout(PATIENCE, events.recv()).await.expect("events come in time");
        seen.extend(batch.expect("the reader lives"));
    }
    seen
}

/// A refused entry keeps the whole call from being appended.
pub async fn a_batch_is_all_or_nothing(first: Log, second: Log) {
    let (a, b) = (key("app_a", "order.updated"), key("app_a", "order.created"));
    let keyed = || Identity::Keyed { producer: "client:x".into() };
    append(&first, vec![entry(&a, "one", 1, keyed())]).await;
    let refused = second.append(vec![unique(&b, 1), entry(&a, "one", 2, keyed())]).await;
    assert!(matches!(refused, Err(LogError::IdConflict { .. })), "{refused:?}");
    assert!(whole(&first, &b).await.is_empty());
    assert_eq!(whole(&first, &a).await.len(), 1);
}

/// The same id of the same producer in the same topic answers the first result, whoever asks.
pub async fn publishers_ids_are_recognized(first: Log, second: Log) {
    let (a, b) = (key("app_a", "order.updated"), key("app_a", "order.created"));
    let keyed = |producer: &str| Identity::Keyed { producer: producer.into() };
    let original = append(&first, vec![entry(&a, "one", 1, keyed("client:x"))]).await;
    let position = original[0].position().cloned();
    let again = append(&second, vec![entry(&a, "one", 1, keyed("client:x"))]).await;
    assert_eq!(again, [Outcome::Repeated(position)]);
    let twice =
        append(&first, vec![entry(&b, "x", 1, keyed("client:x")), entry(&b, "x", 1, keyed("client:x"))])
            .await;
    assert!(matches!(&twice[..], [Outcome::Appended(p), Outcome::Repeated(Some(q))] if p == q));
    let other = append(&second, vec![entry(&a, "one", 2, keyed("client:y"))]).await;
    assert!(matches!(other[0], Outcome::Appended(_)), "another producer's ids are its own");
}

/// A source's positions only grow, and a leader that was overtaken is refused.
pub async fn positions_are_recognized_and_fenced(first: Log, second: Log) {
    let key = key("app_a", "order.updated");
    let at = |term, lsn, ordinal, mapping: &str| {
        let at = SourcePosition { lsn, ordinal, mapping: MappingId::from_stored(mapping) };
        Identity::Positioned { source: "cdc:1".into(), term, at }
    };
    let entries = || {
        vec![
            entry(&key, "a", 1, at(1, 10, 0, "map_1")),
            entry(&key, "b", 2, at(1, 10, 0, "map_2")),
            entry(&key, "c", 3, at(1, 10, 1, "map_1")),
        ]
    };
    append(&first, entries()).await;
    assert_eq!(append(&second, entries()).await, vec![Outcome::Repeated(None); 3]);
    append(&second, vec![entry(&key, "d", 4, at(2, 11, 0, "map_1"))]).await;
    let fenced = first.append(vec![entry(&key, "e", 5, at(1, 12, 0, "map_1"))]).await;
    assert!(matches!(fenced, Err(LogError::Fenced { .. })), "{fenced:?}");
    assert_eq!(whole(&first, &key).await.len(), 4);
}

/// Topics that get a new epoch begin at 0, whoever appends; live readers are told though nothing is appended, positions
/// of before reach nothing, and what was appended from a source is still recognized.
pub async fn a_new_epoch_is_begun_and_said(first: Log, second: Log) {
    let (lost, other) = (key("app_a", "order.updated"), key("app_a", "order.created"));
    let positioned = |number| {
        let at = SourcePosition { lsn: number, ordinal: 0, mapping: MappingId::from_stored("map_1") };
        entry(&lost, "x", number, Identity::Positioned { source: "cdc:1".into(), term: 1, at })
    };
    append(&first, vec![positioned(1), unique(&other, 1)]).await;
    append(&second, vec![positioned(2), unique(&lost, 2)]).await;
    let mut readers = [first.live(), second.live()];
    let mut before = Vec::new();
    for reader in &readers {
        before = reader.watch.watch(vec![lost.clone(), other.clone()]).await.expect("watched");
    }
    let begun = first.begin_epochs(vec![lost.clone()]).await.expect("begun").remove(0);
    assert!(begun.offset == 0 && begun.epoch != before[0].epoch, "{begun:?} after {before:?}");
    for reader in &mut readers {
        let told = tokio::time::timeout(PATIENCE, reader.renewed.recv()).await.expect("told in time");
        assert_eq!(told, Some(lost.clone()));
    }
    for log in [&first, &second] {
        assert_eq!(log.head(&lost).await.expect("head"), begun);
        assert_eq!(log.head(&other).await.expect("head"), before[1]);
        let page = log.history(&lost, after(before[0].clone(), 10, 1 << 20)).await.expect("page");
        assert_eq!((page.reach, page.events.len(), page.head), (Reach::OtherEpoch, 0, begun.clone()));
    }
    // Both had appended in the epoch before, and one of them was not asked for the new one.
    for (number, log) in [(1, &second), (2, &first)] {
        let outcomes = append(log, vec![positioned(2), unique(&lost, number)]).await;
        let expected = Outcome::Appended(Position::new(begun.epoch.clone(), number));
        assert_eq!(outcomes, [Outcome::Repeated(None), expected]);
    }
    for reader in &mut readers {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            // What came before may come too.
            let events = collect(&mut reader.events, 1).await;
            seen.extend(events.into_iter().filter(|event| event.position.epoch == begun.epoch));
        }
        assert_eq!(offsets(&seen), [1, 2]);
    }
}

/// Pages are bounded, connect, and say when they do not.
pub async fn history_pages(first: Log, second: Log) {
    let key = key("app_a", "order.updated");
    append(&first, (0..10).map(|n| unique(&key, n)).collect()).await;
    let head = second.head(&key).await.expect("head");
    let at = |offset| Position::new(head.epoch.clone(), offset);
    let page = second.history(&key, after(at(3), 4, 1 << 20)).await.expect("page");
    assert_eq!(
        (page.reach, offsets(&page.events), page.head.offset),
        (Reach::Connected, vec![4, 5, 6, 7], 10)
    );
    let small = second.history(&key, after(at(0), 10, 1)).await.expect("page");
    assert_eq!(offsets(&small.events), [1], "a page holds at least one event");
    let none = second.history(&key, after(at(10), 10, 1 << 20)).await.expect("page");
    assert_eq!((none.reach, none.events.len()), (Reach::Connected, 0));
    let beyond = second.history(&key, after(at(11), 10, 1 << 20)).await.expect("page");
    assert_eq!(beyond.reach, Reach::BeyondHead);
    let other = second.history(&key, after(Position::new("other", 3), 10, 1 << 20)).await.expect("page");
    assert_eq!(other.reach, Reach::OtherEpoch);
    let limit = PageLimit { events: 3, bytes: 1 << 20 };
    let latest = HistoryQuery { start: Start::Latest, until: None, limit };
    assert_eq!(offsets(&second.history(&key, latest).await.expect("page").events), [8, 9, 10]);
    let until = HistoryQuery { start: Start::After(at(2)), until: Some(4), limit };
    assert_eq!(offsets(&second.history(&key, until).await.expect("page").events), [3, 4]);
}

/// Whatever is appended behind the head that `watch` answered comes live, though appends never pause.
pub async fn watching_misses_nothing(first: Log, second: Log) {
    const TOPICS: usize = 20;
    const EACH: u64 = 60;
    let keys: Vec<TopicKey> = (0..TOPICS).map(|n| key("app_a", &format!("t.{n}"))).collect();
    let writers: Vec<_> = [first.clone(), second.clone()]
        .into_iter()
        .map(|log| {
            let keys = keys.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    append(&log, keys.iter().map(|key| unique(key, number)).collect()).await;
                }
            })
        })
        .collect();
    let mut reader = second.live();
    let mut heads = HashMap::new();
    for key in &keys {
        let head = reader.watch.watch(vec![key.clone()]).await.expect("watched").remove(0);
        heads.insert(key.clone(), head.offset);
    }
    let mut open = keys.len();
    while open > 0 {
        let batch = tokio::time::timeout(PATIENCE, reader.events.recv()).await.expect("events come in time");
        for event in batch.expect("the reader lives") {
            let head = heads.get_mut(&event.key).expect("only watched topics come");
            if event.position.offset > *head {
                assert_eq!(event.position.offset, *head + 1, "{} is whole", event.key.topic);
                *head += 1;
                open -= usize::from(*head == 2 * EACH);
            }
        }
    }
    for writer in writers {
        writer.await.expect("the writer ends");
    }
}

/// One topic name in two scopes is two topics.
pub async fn scopes_are_apart(first: Log, second: Log) {
    let (ours, theirs) = (key("app_a", "order.updated"), key("app_b", "order.updated"));
    let mut reader = second.live();
    reader.watch.watch(vec![ours.clone()]).await.expect("watched");
    append(&first, vec![unique(&theirs, 1)]).await;
    append(&first, vec![unique(&ours, 2)]).await;
    let seen = collect(&mut reader.events, 1).await;
    assert!(seen.iter().all(|event| event.key == ours));
    assert_eq!(whole(&second, &theirs).await.len(), 1);
    assert_eq!(whole(&second, &ours).await.len(), 1);
}

/// What is announced reaches the followers of its key in all instances, in order, and is kept nowhere.
pub async fn messages_reach_those_who_follow(first: Log, second: Log) {
    const MANY: usize = 500;
    let (ours, theirs) = (key("app_a", "chat:room1"), key("app_b", "chat:room1"));
    let mut readers = [first.live(), second.live()];
    for reader in &readers {
        reader.watch.watch(vec![ours.clone()]).await.expect("watched");
    }
    let say = |key: &TopicKey, n: usize| Message { key: key.clone(), body: format!("{{\"n\":{n}}}").into() };
    first.announce(vec![say(&theirs, 0)]).await.expect("announced");
    for n in 0..MANY {
        first.announce(vec![say(&ours, 2 * n), say(&ours, 2 * n + 1)]).await.expect("announced");
    }
    for reader in &mut readers {
        for n in 0..2 * MANY {
            let message = tokio::time::timeout(PATIENCE, reader.messages.recv()).await.expect("in time");
            assert_eq!(message, Some(say(&ours, n)));
        }
    }
    assert_eq!(whole(&second, &ours).await.len(), 0, "it is in no history");
    assert_eq!(second.head(&ours).await.expect("head").offset, 0, "and takes no place");
}

/// A group reads everything in order until it has acknowledged it; groups do not disturb each other.
pub async fn side_effects_are_read_until_acknowledged(first: Log, second: Log) {
    let key = key("app_a", "order.updated");
    let partition = crate::partition_of(&key, first.partitions());
    append(&first, vec![unique(&key, 0)]).await;
    let webhooks = first.side_effects("webhooks").await.expect("group");
    let traces = second.side_effects("traces").await.expect("group");
    append(&second, (1..=3).map(|n| unique(&key, n)).collect()).await;
    let read = webhooks.read(partition, 2).await.expect("read");
    assert_eq!(read.len(), 2, "a group begins at the head, and reads at most what it asks for");
    assert_eq!(read[0].event.position.offset, 2);
    let again = webhooks.read(partition, 2).await.expect("read");
    assert_eq!(again[0].sequence, read[0].sequence, "what is not acknowledged is read again");
    webhooks.acknowledge(partition, read[1].sequence).await.expect("acknowledged");
    let reopened = second.side_effects("webhooks").await.expect("group");
    assert_eq!(reopened.read(partition, 10).await.expect("read").len(), 1);
    assert_eq!(traces.read(partition, 10).await.expect("read").len(), 3);
}
