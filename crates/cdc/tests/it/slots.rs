//! The slot: who holds it, when it is kept, and when it is given up.

use crate::harness::{Harness, payload, scope};
use cdc::{CdcTarget, Manage};
use database::tables::cdc::ReaderState;
use serde_json::json;
use std::time::Duration;

const ORDERS: &str = "create table orders (id int primary key, status text)";
const END_WALSENDERS: &str = "select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null and database = current_database()";

/// The same target under another text of its URL.
fn respelt(harness: &Harness) -> String {
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.query_pairs_mut().append_pair("sslmode", "disable");
    url.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_was_stopped_does_not_take_the_slot_again() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    for round in 0..12 {
        let running = harness.start_live().await;
        harness.sql(END_WALSENDERS).await;
        // About when it connects anew.
        tokio::time::sleep(Duration::from_millis(75 + round * 6)).await;
        running.stop().await;
        harness.drop_slot().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_url_of_the_same_database_keeps_the_slot_and_loses_nothing() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    // As when the password is changed: first one that does not work, then one that does.
    let (good, mut wrong) = (respelt(&harness), url::Url::parse(&harness.target.url).unwrap());
    wrong.set_password(Some("wrong")).unwrap();
    wrong.set_username("nobody").unwrap();
    harness.targets.lock()[0].url = Ok(wrong.to_string());
    harness.status_where("refused", |s| s.state == ReaderState::Error).await;
    harness.sql("insert into orders values (2, 'x')").await;
    harness.targets.lock()[0].url = Err("sealed under another key".to_owned());
    let status = harness.status_where("sealed", |s| s.code.as_deref() == Some("TARGET_SEALED")).await;
    assert!(status.cure.unwrap().contains("REALTIME_SECRET_KEY"));
    harness.targets.lock()[0].url = Ok(good);
    harness.live().await;
    harness.sql("insert into orders values (3, 'x')").await;
    let ids: Vec<_> = harness.events(3).await.iter().map(|e| payload(e)["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(harness.status().await.unwrap().gap.is_none());
    harness.finish(running).await;
}

async fn slots(harness: &Harness) -> i64 {
    let sql = "select count(*) from pg_replication_slots where database = current_database()";
    harness.ask(sql).await
}

async fn publications(harness: &Harness) -> i64 {
    harness.ask("select count(*) from pg_publication").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_nobody_names_any_more_is_given_up_by_whoever_comes_next() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    harness.start_live().await.stop().await;
    assert_eq!((slots(&harness).await, publications(&harness).await), (1, 1));
    // Nobody runs while the application goes.
    let gone = std::mem::take(&mut *harness.targets.lock());
    let running = harness.start();
    harness
        .until("given up", || async { slots(&harness).await == 0 && publications(&harness).await == 0 })
        .await;
    *harness.targets.lock() = gone;
    let status = harness.live().await;
    assert!(status.gap.is_none(), "what is given up on purpose is no gap");
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_know_a_target_of_another_leaves_its_slot_alone() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    harness.targets.lock()[0] = CdcTarget::of_process(scope(), harness.target.url.clone(), Manage::Allowed);
    harness.start_live().await.stop().await;
    let known = std::mem::take(&mut *harness.targets.lock());
    let running = harness.start();
    // It looks for what is to be given up several times.
    harness.until("several looks", || async { harness.looks() > 5 }).await;
    assert_eq!(slots(&harness).await, 1);
    running.stop().await;
    *harness.targets.lock() = known;
    let running = harness.start_live().await;
    assert!(harness.status().await.unwrap().gap.is_none());
    harness.finish(running).await;
}
