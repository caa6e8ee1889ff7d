//! Existing rows as events, while changes go on streaming.

use crate::harness::{Harness, Running, metadata, payload, scope};
use database::tables::{
    cdc_backfills::{self, Backfill},
    mappings,
};
use event_log::{Entry, Identity};
use serde_json::json;
use shared_types::MappingId;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};
use testkit::PATIENCE;

const ORDERS: &str = "create table orders (id int primary key, status text, paid bool not null default true)";
const WHOLE: &str = "$row.status";

async fn request(harness: &Harness, mapping: &MappingId) {
    cdc_backfills::request(harness.pool(), &scope(), mapping, "tests").await.unwrap();
}

async fn ended(harness: &Harness, mapping: &MappingId) -> Backfill {
    harness
        .until("ended", || async {
            let last = cdc_backfills::last(harness.pool(), &scope(), mapping).await.unwrap().unwrap();
            matches!(last.state.as_str(), "done" | "failed")
        })
        .await;
    cdc_backfills::last(harness.pool(), &scope(), mapping).await.unwrap().unwrap()
}

fn snapshots(entries: &[Entry]) -> Vec<&Entry> {
    entries.iter().filter(|entry| &*entry.kind == "database.snapshot").collect()
}

/// What a receiver that keeps the last event of each row ends up with.
fn last_of_each(entries: &[Entry]) -> BTreeMap<i64, String> {
    let of = |entry: &Entry| {
        let payload = payload(entry);
        (payload["id"].as_i64().unwrap(), payload["status"].as_str().unwrap_or("deleted").to_owned())
    };
    entries.iter().map(of).collect()
}

async fn table(harness: &Harness) -> BTreeMap<i64, String> {
    let rows: Vec<(i32, String)> =
        sqlx::query_as("select id, status from orders").fetch_all(&harness.target.pool).await.unwrap();
    rows.into_iter().map(|(id, status)| (i64::from(id), status)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_rows_are_sent_once_each_as_the_stream_would_write_them() {
    let harness = Harness::new(&format!(
        "{ORDERS}; insert into orders select n, case when n % 2 = 0 then 'even' else 'odd' end, n % 3 = 0 from generate_series(1, 1200) n"
    ))
    .await;
    let even = harness
        .mapping(json!({ "events": ["update"], "when": { "eq": [WHOLE, "even"] },
            "payload": { "id": "$row.id", "status": WHOLE, "paid": "$row.paid" } }))
        .await;
    let running = harness.start_live().await;
    request(&harness, &even).await;
    let done = ended(&harness, &even).await;
    assert_eq!((done.state.as_str(), done.rows_sent), ("done", 1200), "{done:?}");
    let entries = harness.log.entries();
    assert_eq!(entries.len(), 600);
    let first = entries.iter().find(|entry| payload(entry)["id"] == json!(2)).unwrap();
    assert_eq!(&*first.kind, "database.snapshot");
    assert_eq!(payload(first), json!({ "id": 2, "status": "even", "paid": false }));
    assert_eq!(metadata(first)["operation"], json!("snapshot"));
    let ids: BTreeSet<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids.len(), 600);
    // Another run has ids of its own.
    request(&harness, &even).await;
    ended(&harness, &even).await;
    assert_eq!(harness.log.entries().len(), 1200);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_are_read_a_few_at_a_time() {
    let harness = Harness::new(
        "create table orders (id int primary key, status text);
        insert into orders select n, repeat('x', 1500000) from generate_series(1, 40) n",
    )
    .await;
    let mapping = harness.mapping(json!({ "payload": { "id": "$row.id" } })).await;
    let running = harness.start_live().await;
    request(&harness, &mapping).await;
    let done = ended(&harness, &mapping).await;
    assert_eq!((done.state.as_str(), done.rows_sent), ("done", 40), "{done:?}");
    let ids: Vec<_> =
        harness.events(40).await.iter().map(|entry| payload(entry)["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 40);
    let largest = harness.log.batches().into_iter().max();
    assert!(largest <= Some(3), "{:?}", harness.log.batches());
    harness.finish(running).await;
}

async fn writes(harness: &Harness, round: i32) {
    let from = round * 37 % 3000 + 1;
    harness
        .sql(&format!(
            "begin; update orders set status = 'v{round}' where id between {from} and {from} + 5;
            delete from orders where id = {from} + 9;
            insert into orders values ({}, 'new{round}') on conflict do nothing;
            update orders set id = -id where id = {from} + 20; commit",
            10_000 + round
        ))
        .await;
}

async fn restarted(harness: &Harness, running: Running, round: i32) -> Running {
    match round % 2 {
        0 => running.kill().await,
        _ => running.stop().await,
    }
    harness.start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_never_overwrites_something_newer_whoever_dies_meanwhile() {
    let harness = Harness::new(&format!(
        "{ORDERS}; insert into orders select n, 'old' from generate_series(1, 4000) n"
    ))
    .await;
    let mapping = harness.mapping(json!({})).await;
    let mut running = harness.start_live().await;
    request(&harness, &mapping).await;
    let (mut round, begun) = (0, Instant::now());
    loop {
        writes(&harness, round).await;
        round += 1;
        if round % 40 == 0 && round <= 160 {
            running = restarted(&harness, running, round / 40).await;
        }
        let last = cdc_backfills::last(harness.pool(), &scope(), &mapping).await.unwrap().unwrap();
        assert!(last.state != "failed" && begun.elapsed() < PATIENCE, "after {round} rounds: {last:?}");
        if last.state == "done" && round > 200 {
            break;
        }
    }
    harness.sql("insert into orders values (99999, 'end')").await;
    harness
        .until("the end", || async {
            harness.log.entries().iter().any(|entry| payload(entry)["id"] == json!(99_999))
        })
        .await;
    let entries = harness.log.entries();
    let sent = snapshots(&entries);
    let ids: BTreeSet<&str> = sent.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids.len(), sent.len(), "each row once, whoever died");
    let mut known = last_of_each(&entries);
    let there = table(&harness).await;
    // What was deleted before its row was read is not known to anybody, and what moved to another key neither.
    known.retain(|id, status| status != "deleted" && there.contains_key(id));
    assert_eq!(known, there);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_refused_and_one_can_be_cancelled() {
    let harness = Harness::new("create table notes (body text); insert into notes values ('x')").await;
    let mapping = harness.mapping(json!({ "table": "notes", "payload": { "body": "$row.body" } })).await;
    let running = harness.start_live().await;
    request(&harness, &mapping).await;
    let failed = ended(&harness, &mapping).await;
    assert_eq!(
        failed.message.as_deref(),
        Some("notes has no primary key, in whose order its rows could be read")
    );
    assert!(failed.cure.is_some());
    running.stop().await;
    request(&harness, &mapping).await;
    assert!(
        cdc_backfills::request(harness.pool(), &scope(), &mapping, "tests").await.is_err(),
        "one at a time"
    );
    assert!(cdc_backfills::cancel(harness.pool(), &scope(), &mapping).await.unwrap());
    assert!(!cdc_backfills::cancel(harness.pool(), &scope(), &mapping).await.unwrap());
    harness.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_sent_only_once_their_changes_are_in_the_stream() {
    let harness = Harness::new(&format!("{ORDERS}; create table other (id int primary key)")).await;
    harness.mapping(json!({ "table": "other", "topic": "b.c", "payload": {} })).await;
    let running = harness.start_live().await;
    // Its table cannot be published while this is open.
    let mut writer = harness.target.pool.begin().await.unwrap();
    sqlx::query("insert into orders values (1, 'open')").execute(&mut *writer).await.unwrap();
    let mapping = harness.mapping(json!({})).await;
    request(&harness, &mapping).await;
    harness
        .until("it says so", || async {
            let last = cdc_backfills::last(harness.pool(), &scope(), &mapping).await.unwrap().unwrap();
            last.message.as_deref() == Some("the mapping is not live yet")
        })
        .await;
    writer.commit().await.unwrap();
    let done = ended(&harness, &mapping).await;
    assert_eq!((done.state.as_str(), done.rows_sent, done.message), ("done", 1, None));
    assert_eq!(payload(&harness.events(1).await[0])["status"], json!("open"));
    // A mapping that looks at another table meanwhile ends its backfill.
    running.stop().await;
    request(&harness, &mapping).await;
    let work = cdc_backfills::next(harness.pool(), &[scope()], &[]).await.unwrap().unwrap();
    cdc_backfills::note_end(harness.pool(), &work, "elsewhere", &["1".to_owned()]).await.unwrap();
    let running = harness.start_live().await;
    let failed = ended(&harness, &mapping).await;
    assert_eq!(failed.message.as_deref(), Some("the mapping has been changed to look at orders"));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_holds_up_no_other() {
    let rows = "insert into orders select n, 'open' from generate_series(1, 8000) n";
    let harness = Harness::new(&format!("{ORDERS}; {rows}")).await;
    let mapping = harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    let nowhere = harness.mapping(json!({ "table": "ghosts", "topic": "b.c", "payload": {} })).await;
    request(&harness, &nowhere).await;
    harness
        .until("it says so", || async {
            let last = cdc_backfills::last(harness.pool(), &scope(), &nowhere).await.unwrap().unwrap();
            last.message.as_deref() == Some("the mapping is not live yet")
        })
        .await;
    request(&harness, &mapping).await;
    let done = ended(&harness, &mapping).await;
    assert_eq!((done.state.as_str(), done.rows_sent), ("done", 8000), "{done:?}");
    // With chunks that grow, as if it were alone.
    let largest = harness.log.batches().into_iter().max();
    assert!(largest >= Some(256), "{:?}", harness.log.batches());
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_a_slot_is_sent_anew_where_the_mapping_says_so() {
    let harness = Harness::new(ORDERS).await;
    let mapping = harness.mapping(json!({})).await;
    mappings::set_resync(harness.pool(), &scope(), &mapping, true).await.unwrap();
    harness.start_live().await.stop().await;
    harness.drop_slot().await;
    harness.sql("insert into orders values (1, 'missed')").await;
    let running = harness.start_live().await;
    let done = ended(&harness, &mapping).await;
    assert_eq!((done.reason.as_str(), done.state.as_str()), ("resync", "done"));
    let events = harness.events(1).await;
    assert_eq!(
        (&*events[0].kind, payload(&events[0])["status"].clone()),
        ("database.snapshot", json!("missed"))
    );
    harness.finish(running).await;
}

/// The backfills that have ended as sources of positions.
async fn ended_sources(harness: &Harness) -> Vec<String> {
    let sql = "select source from event_log_ended_sources order by ended_at, source";
    sqlx::query_scalar(sql).fetch_all(harness.pool()).await.unwrap()
}

async fn source(harness: &Harness, mapping: &MappingId) -> String {
    let last = cdc_backfills::last(harness.pool(), &scope(), mapping).await.unwrap().unwrap();
    format!("backfill:{}", last.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_backfill_ends_what_the_log_remembers_of_it_may_go() {
    let harness = Harness::new(&format!("{ORDERS}; insert into orders values (1, 'x')")).await;
    let mapping = harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    request(&harness, &mapping).await;
    let done = ended(&harness, &mapping).await;
    assert_eq!((done.rows_sent, done.rows_expected), (1, None), "no estimate of what was never analyzed");
    let Identity::Positioned { source: of_events, .. } = &harness.events(1).await[0].identity.clone() else {
        panic!("a row without a position")
    };
    let mut wanted = vec![of_events.to_string()];
    assert_eq!(ended_sources(&harness).await, wanted);
    harness.sql("analyze orders").await;
    request(&harness, &mapping).await;
    assert_eq!(ended(&harness, &mapping).await.rows_expected, Some(1));
    wanted.push(source(&harness, &mapping).await);
    running.stop().await;
    harness.drop_slot().await;
    let resync = async || {
        cdc_backfills::request_resync(harness.pool(), &[scope()]).await.unwrap();
    };
    // One that begins anew goes on under another name.
    request(&harness, &mapping).await;
    mappings::set_resync(harness.pool(), &scope(), &mapping, true).await.unwrap();
    wanted.push(source(&harness, &mapping).await);
    resync().await;
    assert_eq!(ended_sources(&harness).await, wanted);
    let anew = cdc_backfills::last(harness.pool(), &scope(), &mapping).await.unwrap().unwrap();
    assert_eq!((anew.reason.as_str(), anew.requested_by), ("resync", None), "nothing of the one before");
    wanted.push(source(&harness, &mapping).await);
    cdc_backfills::cancel(harness.pool(), &scope(), &mapping).await.unwrap();
    assert_eq!(ended_sources(&harness).await, wanted);
    request(&harness, &mapping).await;
    wanted.push(source(&harness, &mapping).await);
    mappings::delete(harness.pool(), &scope(), &mapping).await.unwrap();
    assert_eq!(ended_sources(&harness).await, wanted, "with its mapping");
}
