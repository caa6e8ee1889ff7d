//! Events that the log does not take: kept aside, confirmed, and sent in order once it does, whoever dies meanwhile.

use crate::{
    harness::{Harness, payload, scope},
    recording::RecordingLog,
};
use database::tables::{
    cdc::{self as cdc_tables, ReaderState},
    cdc_spill::{self, SpillKey, SpilledEvent},
};
use serde_json::json;
use shared_types::{EventId, MappingId, RawObject, TopicName};
use std::time::Duration;

const ORDERS: &str = "create table orders (id int primary key, status text)";

async fn insert(harness: &Harness, from: i64, to: i64) {
    for id in from..=to {
        harness.sql(&format!("insert into orders values ({id}, 'x')")).await;
    }
}

/// Waits until the target may forget everything that was committed before.
async fn confirmed(harness: &Harness) {
    let end: String = harness.ask("select pg_current_wal_insert_lsn()::text").await;
    let sql = format!(
        "select coalesce(bool_and(confirmed_flush_lsn >= '{end}'), false) from pg_replication_slots
         where database = current_database()"
    );
    harness.until("confirmed", || async { harness.ask::<bool>(&sql).await }).await;
}

/// Every id from 1 to `count`, each once and in order.
async fn all_once(harness: &Harness, count: i64) {
    let entries = harness.events(usize::try_from(count).unwrap()).await;
    let ids: Vec<i64> = entries.iter().map(|e| payload(e)["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, (1..=count).collect::<Vec<_>>());
}

async fn spilled(harness: &Harness) -> i64 {
    let sql = "select count(*) from cdc_spilled_events";
    sqlx::query_scalar(sql).fetch_one(harness.pool()).await.unwrap()
}

async fn straight(harness: &Harness) {
    let is_straight = |s: &cdc_tables::ReaderStatus| {
        s.state == ReaderState::Streaming && s.code.is_none() && s.spilled_events == 0
    };
    harness.status_where("straight", is_straight).await;
    assert_eq!(spilled(harness).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_log_does_not_take_is_kept_aside_and_sent_in_order() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 10).await;
    harness.events(10).await;
    harness.log.set_full(true);
    insert(&harness, 11, 200).await;
    harness.sql("insert into orders select n, 'large' from generate_series(201, 5200) n").await;
    // The target need not keep them, though the log has none of them.
    confirmed(&harness).await;
    assert_eq!(harness.log.entries().len(), 10);
    let status = harness.status_where("spilling", |s| s.spilled_events >= 5_190).await;
    assert_eq!(
        (status.state, status.code.as_deref()),
        (ReaderState::Streaming, Some("SPILLING")),
        "{status:#?}"
    );
    assert!(status.spilled_bytes > 5_000 && status.lag_seconds.is_some_and(|lag| lag > 0.0), "{status:#?}");
    let waiting = format!("{} wait", status.spilled_events);
    assert!(status.message.is_some_and(|m| m.contains(&waiting)) && status.cure.is_some());
    harness.log.set_full(false);
    insert(&harness, 5_201, 5_300).await;
    all_once(&harness, 5_300).await;
    straight(&harness).await;
    insert(&harness, 5_301, 5_310).await;
    all_once(&harness, 5_310).await;
    assert!(harness.metrics.cdc_spilled.get() >= 5_190);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_it_spills_loses_and_doubles_nothing() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let mut running = harness.start_live().await;
    harness.log.set_full(true);
    for round in 0..5 {
        let (first, last) = (round * 600 + 1, round * 600 + 600);
        insert(&harness, first, first + 49).await;
        harness
            .sql(&format!("insert into orders select n, 'x' from generate_series({}, {last}) n", first + 50))
            .await;
        // About when it spills; each time a little later.
        tokio::time::sleep(Duration::from_millis(30 * round.unsigned_abs())).await;
        running.kill().await;
        running = harness.start();
    }
    confirmed(&harness).await;
    harness.log.set_full(false);
    all_once(&harness, 3_000).await;
    straight(&harness).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_it_empties_the_spill_loses_and_doubles_nothing() {
    let mut harness = Harness::new(ORDERS).await;
    harness.log = RecordingLog::gated();
    harness.mapping(json!({})).await;
    harness.log.set_full(true);
    harness.log.let_through(2);
    let mut running = harness.start_live().await;
    harness.sql("insert into orders select n, 'x' from generate_series(1, 9000) n").await;
    confirmed(&harness).await;
    harness.log.set_full(false);
    let mut sent = 0;
    while sent < 8_000 {
        // One page whose removal may not have come to pass, so that it is sent once more, and another.
        harness.log.let_through(2);
        harness.until("a page", || async { harness.log.entries().len() > sent }).await;
        sent = harness.log.entries().len();
        running.kill().await;
        running = harness.start();
    }
    harness.sql("insert into orders select n, 'x' from generate_series(9001, 9100) n").await;
    harness.log.let_through(1_000);
    all_once(&harness, 9_100).await;
    straight(&harness).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_is_taken_for_one_that_takes_nothing() {
    let mut harness = Harness::new(ORDERS).await;
    harness.log = RecordingLog::gated();
    harness.spill.slow_after = Some(Duration::from_millis(300));
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 50).await;
    confirmed(&harness).await;
    assert!(harness.log.entries().is_empty());
    harness.status_where("spilling", |s| s.code.as_deref() == Some("SPILLING")).await;
    harness.log.let_through(1_000);
    all_once(&harness, 50).await;
    straight(&harness).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_its_limit_the_target_keeps_its_log() {
    let mut harness = Harness::new(ORDERS).await;
    harness.spill.limit_bytes = 20_000;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.log.set_full(true);
    for round in 0..40 {
        let (first, last) = (round * 500 + 1, round * 500 + 500);
        harness
            .sql(&format!("insert into orders select n, 'x' from generate_series({first}, {last}) n"))
            .await;
    }
    let status = harness.status_where("full", |s| s.code.as_deref() == Some("SPILL_FULL")).await;
    assert!(status.cure.is_some_and(|cure| cure.contains("CDC_SPILL_BYTES")));
    assert!(status.message.as_deref().is_some_and(|said| said.contains(" KiB)")), "{:?}", status.message);
    let kept = spilled(&harness).await;
    assert!(kept < 20_000, "{kept} of 20,000 are kept aside");
    harness.log.set_full(false);
    all_once(&harness, 20_000).await;
    straight(&harness).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_aside_where_it_is_switched_off() {
    let mut harness = Harness::new(ORDERS).await;
    harness.spill.limit_bytes = 0;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.log.set_full(true);
    insert(&harness, 1, 20).await;
    let status = harness.status_where("refused", |s| s.state == ReaderState::Error).await;
    assert_eq!((status.code.as_deref(), spilled(&harness).await), (Some("PLATFORM"), 0));
    harness.log.set_full(false);
    all_once(&harness, 20).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_aside_is_sent_before_its_slot_is_given_up() {
    let harness = Harness::new(ORDERS).await;
    let mapping = harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.log.set_full(true);
    insert(&harness, 1, 30).await;
    confirmed(&harness).await;
    let subscriptions = cdc_tables::subscriptions(harness.pool(), &scope(), None, 10).await.unwrap();
    let of_mapping = subscriptions.iter().find(|s| s.mapping_id == mapping.as_str()).unwrap();
    cdc_tables::set_active(harness.pool(), &scope(), &of_mapping.id, false).await.unwrap();
    harness.status_where("waiting", |s| s.state == ReaderState::Error).await;
    harness.log.set_full(false);
    all_once(&harness, 30).await;
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    harness.until("given up", || async { harness.ask::<i64>(slots).await == 0 }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_leader_spills() {
    let platform = testkit::database().await;
    let key = SpillKey { system_identifier: "1".to_owned(), slot: "slot".to_owned() };
    let event = |ordinal| SpilledEvent {
        scope: scope(),
        topic: TopicName::parse("order.changed").unwrap(),
        id: EventId::generate(),
        kind: "database.insert".to_owned(),
        payload: RawObject::from_trusted("{\"id\":1}"),
        extra_metadata: "\"table\":\"orders\"".to_owned(),
        timestamp_ms: 1,
        source: "source".to_owned(),
        lsn: u64::MAX - 1,
        ordinal,
        mapping: MappingId::from_stored("map_1"),
    };
    let pool = &platform.pool;
    assert_eq!(cdc_spill::take_over(pool, &key, 1).await.unwrap().unwrap().events, 0);
    let size = cdc_spill::push(pool, &key, 1, &[event(0), event(1)]).await.unwrap().unwrap();
    assert_eq!((size.events, size.bytes), (2, 48));
    assert_eq!(cdc_spill::take_over(pool, &key, 2).await.unwrap(), Some(size));
    assert_eq!(cdc_spill::push(pool, &key, 1, &[event(2)]).await.unwrap(), None);
    assert_eq!(cdc_spill::take_over(pool, &key, 1).await.unwrap(), None);
    cdc_spill::push(pool, &key, 2, &[event(2)]).await.unwrap().unwrap();
    let page = cdc_spill::oldest(pool, &key, 10, 50).await.unwrap();
    let seen: Vec<_> = page.iter().map(|(number, event)| (*number, event.ordinal, event.lsn)).collect();
    assert_eq!(seen, [(1, 0, u64::MAX - 1), (2, 1, u64::MAX - 1)], "a page ends with its bytes");
    assert_eq!(cdc_spill::oldest(pool, &key, 10, 1).await.unwrap().len(), 1, "but holds at least one");
    assert_eq!(cdc_spill::remove(pool, &key, 2).await.unwrap().events, 1);
    assert_eq!(cdc_spill::forget(pool, &key).await.unwrap(), 1);
    assert!(cdc_spill::oldest(pool, &key, 10, 50).await.unwrap().is_empty());
}
