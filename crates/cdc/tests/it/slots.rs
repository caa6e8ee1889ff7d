//! The slot: who holds it, when it is kept, and when it is given up.

use crate::harness::{Harness, payload, scope};
use cdc::{CdcTarget, Manage};
use database::tables::cdc::{self as cdc_tables, ReaderState, ReaderStatus};
use serde_json::json;
use shared_types::{Environment, Scope};
use sqlx::AssertSqlSafe;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_it_makes_its_slot_leaves_no_gap() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    // Making a slot waits for everything that writes.
    let mut writer = harness.target.pool.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *writer).await.unwrap();
    let making = "select exists (select from pg_replication_slots where active_pid is not null and database = current_database())";
    let first = harness.start();
    harness.until("a slot that is being made", || async { harness.ask::<bool>(making).await }).await;
    let maker = "select active_pid from pg_replication_slots where database = current_database()";
    let before: i32 = harness.ask(maker).await;
    first.kill().await;
    let second = harness.start();
    let again = format!(
        "select exists (select from pg_replication_slots where active_pid <> {before} and database = current_database())"
    );
    harness.until("another that makes it", || async { harness.ask::<bool>(&again).await }).await;
    writer.commit().await.unwrap();
    let status = harness.live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    assert_eq!((status.gap, harness.log.begun().len()), (None, 0));
    harness.finish(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_target_that_does_not_answer_is_left_alone() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    cdc_tables::set_desired(harness.pool(), &scope(), false).await.unwrap();
    harness.targets.lock()[0].url = Ok("postgres://nobody:secret@127.0.0.1:1/nowhere".to_owned());
    let running = harness.start();
    harness.status_where("stopped", |s| s.code.as_deref() == Some("STOPPED")).await;
    let before = harness.looks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let looks = harness.looks() - before;
    assert!(looks <= 8, "{looks} looks within two seconds");
    running.stop().await;
}

/// Keeps the code of every status that is written, however soon another takes its place.
const REMEMBER_CODES: &str = "
    create table said (code text);
    create function remember() returns trigger language plpgsql
        as $$ begin insert into said values (new.code); return null; end $$;
    create trigger remember after update on cdc_reader_status for each row execute function remember()";

/// What a status says of who reads.
fn said(status: &ReaderStatus) -> (ReaderState, Option<&str>, bool) {
    (status.state, status.code.as_deref(), status.leader.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_is_said_truthfully_from_the_first_moment_on() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    sqlx::raw_sql(REMEMBER_CODES).execute(harness.pool()).await.unwrap();
    cdc_tables::set_desired(harness.pool(), &scope(), false).await.unwrap();
    let first = harness.status_where("stopped", |s| s.state == ReaderState::Stopped).await;
    assert_eq!(said(&first), (ReaderState::Stopped, Some("STOPPED"), false));
    assert!(first.message.as_deref().is_some_and(|m| m.contains("it was told to stop")), "{first:#?}");
    let codes = "select array_agg(distinct code) from said where code is not null";
    let codes: Vec<String> = sqlx::query_scalar(codes).fetch_one(harness.pool()).await.unwrap();
    assert_eq!(codes, ["STOPPED"], "and nothing else before that");
    cdc_tables::set_desired(harness.pool(), &scope(), true).await.unwrap();
    harness.live().await;
    // Nobody was told to stop: the process ends, and another reads on.
    running.stop().await;
    let left = harness.status().await.unwrap();
    assert_eq!(said(&left), (ReaderState::Stopped, Some("LEADER_LEFT"), false));
    let running = harness.start_live().await;
    let read = harness.status().await.unwrap();
    assert_eq!(said(&read), (ReaderState::Streaming, None, true));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_stopped_beside_others_is_told_that_nothing_is_kept() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let staging = Scope::new(scope().application().clone(), Environment::Staging);
    let mut second = harness.targets.lock()[0].clone();
    second.scope = staging.clone();
    harness.targets.lock().push(second);
    let running = harness.start_live().await;
    cdc_tables::set_desired(harness.pool(), &staging, false).await.unwrap();
    let status = || async { cdc_tables::status(harness.pool(), &staging).await.unwrap().unwrap() };
    harness.until("it stops", || async { status().await.state == ReaderState::Stopped }).await;
    let stopped = status().await;
    assert!(stopped.message.as_deref().is_some_and(|m| m.contains("not kept for this one")), "{stopped:#?}");
    harness.live().await;
    // Where nobody else reads, everything is kept.
    cdc_tables::set_desired(harness.pool(), &scope(), false).await.unwrap();
    harness
        .status_where("kept", |s| s.message.as_deref().is_some_and(|m| m.contains("keeps the target's log")))
        .await;
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
async fn whoever_gives_a_target_up_leads_it_until_that_is_done() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    // The publication cannot be dropped while this is open.
    let mut holding = harness.target.pool.begin().await.unwrap();
    let held = "set local idle_in_transaction_session_timeout = 0; comment on publication";
    let comment = format!("{held} {} is 'held'", harness.names().publication);
    sqlx::raw_sql(AssertSqlSafe(comment)).execute(&mut *holding).await.unwrap();
    harness.targets.lock().clear();
    harness.until("the slot is gone", || async { slots(&harness).await == 0 }).await;
    // Longer than a lease lasts.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let led =
        "select holder is not null and expires_at > clock_timestamp() from leases where name like 'cdc/%'";
    assert!(sqlx::query_scalar::<_, bool>(led).fetch_one(harness.pool()).await.unwrap());
    holding.rollback().await.unwrap();
    harness.until("given up", || async { publications(&harness).await == 0 }).await;
    let given_back = "select count(*) from leases where name like 'cdc/%' and holder is null";
    harness
        .until("given back", || async {
            sqlx::query_scalar::<_, i64>(given_back).fetch_one(harness.pool()).await.unwrap() == 1
        })
        .await;
    running.stop().await;
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
