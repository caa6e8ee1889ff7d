use super::*;
use event_log::{Identity, SourcePosition};
use metrics::Metrics;
use shared_types::{AppId, Draft, Environment, MappingId, RawObject, Scope, Source, TopicName};
use std::sync::Arc;

#[path = "../../tests/it/recording.rs"]
mod recording;
use recording::RecordingLog;

fn event(lsn: u64, ordinal: u64) -> Routed {
    let at = SourcePosition { lsn, ordinal, mapping: MappingId::from_stored("map_1") };
    Routed {
        scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
        draft: Draft {
            topic: TopicName::parse("a.b").unwrap(),
            source: Source::Database,
            kind: "database.insert".into(),
            payload: RawObject::from_trusted("{}"),
            id: None,
            timestamp_ms: Some(1),
            extra_metadata: String::new(),
        },
        identity: Identity::Positioned { source: "s".into(), term: 1, at },
    }
}

fn appends(log: &Arc<RecordingLog>) -> Appends {
    Appends::new(EventRouter::new(log.clone(), Metrics::new()), None)
}

fn at(lsn: u64) -> Seen {
    Seen { lsn, commit_ms: 1, xid: 1 }
}

fn transaction(appends: &mut Appends, lsn: u64, events: u64) {
    appends.begin(at(lsn));
    (0..events).for_each(|ordinal| appends.push(event(lsn, ordinal)));
    appends.commit(lsn + 1);
}

#[tokio::test]
async fn nothing_is_confirmed_before_it_is_appended() {
    let log = RecordingLog::gated();
    let mut appends = appends(&log);
    transaction(&mut appends, 10, 2);
    appends.start();
    assert_eq!((appends.confirmed(), appends.is_in_flight(), appends.oldest_ms()), (0, true, Some(1)));
    assert_eq!(appends.seen(), Some(at(10)));
    // What is read meanwhile waits, and a keepalive does not confirm past it.
    transaction(&mut appends, 20, 1);
    transaction(&mut appends, 30, 0);
    appends.reached(99);
    log.let_through(1);
    assert_eq!(appends.settled().await.unwrap().events, 2);
    assert_eq!(appends.confirmed(), 11);
    appends.start();
    log.let_through(1);
    appends.settled().await.unwrap();
    assert_eq!((appends.confirmed(), appends.is_quiet(), appends.oldest_ms()), (99, true, None));
    assert_eq!(log.batches(), [2, 1]);
    assert_eq!(appends.seen(), Some(at(20)), "a transaction without events is not looked for again");
}

#[tokio::test]
async fn with_nothing_on_its_way_what_was_read_is_done() {
    let log = RecordingLog::gated();
    let mut appends = appends(&log);
    transaction(&mut appends, 10, 0);
    assert_eq!(appends.confirmed(), 11);
    appends.reached(50);
    assert_eq!((appends.confirmed(), appends.seen()), (50, None));
    // But not within a transaction.
    appends.begin(at(60));
    appends.reached(70);
    assert_eq!(appends.confirmed(), 50);
}

#[tokio::test]
async fn an_open_transaction_waits_for_its_end_unless_it_is_too_large() {
    let log = RecordingLog::new();
    let mut appends = appends(&log);
    appends.begin(at(10));
    appends.push(event(10, 0));
    appends.start();
    assert!(!appends.is_in_flight());
    (1..BATCH_EVENTS as u64).for_each(|ordinal| appends.push(event(10, ordinal)));
    assert!(!appends.has_room());
    appends.start();
    assert_eq!(appends.settled().await.unwrap().events, BATCH_EVENTS);
    assert_eq!(appends.confirmed(), 0, "a part of a transaction confirms nothing");
    appends.push(event(10, BATCH_EVENTS as u64));
    appends.commit(11);
    appends.start();
    appends.settled().await.unwrap();
    assert_eq!(appends.confirmed(), 11);
}

#[tokio::test]
async fn a_failure_confirms_nothing() {
    let log = RecordingLog::new();
    log.fail_next(1);
    let mut appends = appends(&log);
    transaction(&mut appends, 10, 1);
    appends.start();
    assert!(appends.settled().await.is_err());
    assert_eq!(appends.confirmed(), 0);
}
