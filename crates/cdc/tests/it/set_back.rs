//! Targets that are put back to an earlier state of themselves, as from a snapshot of their volume.

use crate::{
    harness::{Harness, payload},
    servers::server,
};
use event_log::TopicKey;
use local_postgres::{LocalPostgres, Options};
use serde_json::json;
use shared_types::TopicName;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

const ORDERS: &str = "create table orders (id int primary key, status text)";

/// A server with a copy of its files.
struct Copied {
    directory: TempDir,
    files: PathBuf,
    port: u16,
}

impl Copied {
    /// Stops the server in order, and copies its files.
    async fn of(directory: TempDir, server: LocalPostgres) -> Self {
        let (files, port) = (server.directory().to_owned(), server.port());
        server.stop().await.unwrap();
        copy(&files, &copy_of(&files)).await;
        Self { directory, files, port }
    }

    /// Starts it as it is.
    async fn start(&self) -> LocalPostgres {
        let data_dir = self.directory.path().join("pg");
        let options = Options { port: Some(self.port), ..Options::throwaway(data_dir) };
        LocalPostgres::start(options).await.unwrap()
    }

    /// Stops the server, and starts it over the copy.
    async fn put_back(&self, server: LocalPostgres) -> LocalPostgres {
        server.stop().await.unwrap();
        std::fs::remove_dir_all(&self.files).unwrap();
        copy(&copy_of(&self.files), &self.files).await;
        self.start().await
    }

    /// Stops the server and removes the copy.
    async fn end(self, server: LocalPostgres) {
        server.stop().await.unwrap();
        std::fs::remove_dir_all(copy_of(&self.files)).unwrap();
    }
}

fn copy_of(files: &Path) -> PathBuf {
    files.with_extension("copy")
}

/// Copies files with their owners.
async fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().await.unwrap().success());
}

async fn insert(harness: &Harness, from: i64, to: i64) {
    for id in from..=to {
        harness.sql(&format!("insert into orders values ({id}, repeat('x', 200))")).await;
    }
}

/// Which of the ids from `from` to `to` were appended, in order.
fn appended(harness: &Harness, from: i64, to: i64) -> Vec<i64> {
    let ids = harness.log.entries().into_iter().map(|entry| payload(&entry)["id"].as_i64().unwrap());
    ids.filter(|id| (from..=to).contains(id)).collect()
}

/// Waits until the ids from `from` to `to` are appended, each once and in order.
async fn all_appended(harness: &Harness, from: i64, to: i64) {
    harness.until("the last", || async { appended(harness, to, to).len() == 1 }).await;
    assert_eq!(appended(harness, from, to), (from..=to).collect::<Vec<_>>());
}

/// Where what was read last stands in the target's log.
async fn seen(harness: &Harness) -> i64 {
    sqlx::query_scalar("select coalesce(seen_lsn, 0) from cdc_slots").fetch_one(harness.pool()).await.unwrap()
}

fn topic() -> Vec<TopicKey> {
    vec![TopicKey::new(&testkit::scope(), &TopicName::parse("order.changed").unwrap())]
}

const HERE: &str = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
const CONFIRMED: &str =
    "select pg_wal_lsn_diff(confirmed_flush_lsn, '0/0')::bigint from pg_replication_slots";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_set_back_while_it_is_read_loses_nothing() {
    let (directory, server) = server(&[]).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 5).await;
    harness.events(5).await;
    let copied = Copied::of(directory, server).await;
    let server = copied.start().await;
    insert(&harness, 6, 200).await;
    all_appended(&harness, 1, 200).await;
    assert!(harness.log.begun().is_empty(), "a server that was started again was not set back");
    let server = copied.put_back(server).await;
    // Shorter than what was read: it stands at places that the log knows already.
    insert(&harness, 1001, 1003).await;
    all_appended(&harness, 1001, 1003).await;
    assert_eq!(harness.log.begun(), topic());
    let gap = harness.status_where("a gap", |s| s.gap.is_some()).await.gap.unwrap();
    assert!(gap.reason.contains("set back") && gap.reason.contains("its log ends at"), "{gap:?}");
    let further = format!("select '{}'::pg_lsn > '{}'::pg_lsn", gap.from_lsn.as_deref().unwrap(), gap.to_lsn);
    assert!(harness.ask::<bool>(&further).await, "what was read ended behind where it is read on: {gap:?}");
    // Past what was read before, and with another leader.
    insert(&harness, 1004, 1400).await;
    all_appended(&harness, 1004, 1400).await;
    running.stop().await;
    let running = harness.start_live().await;
    insert(&harness, 1401, 1402).await;
    all_appended(&harness, 1001, 1402).await;
    assert_eq!(harness.log.begun(), topic(), "it is said once");
    assert_eq!(harness.status().await.unwrap().gap, Some(gap));
    harness.finish(running).await;
    copied.end(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_set_back_and_went_on_past_what_was_read_loses_nothing() {
    let (directory, server) = server(&[]).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    harness.start_live().await.stop().await;
    let copied = Copied::of(directory, server).await;
    let server = copied.start().await;
    let running = harness.start_live().await;
    insert(&harness, 1, 20).await;
    harness.events(20).await;
    running.stop().await;
    let read = seen(&harness).await;
    let server = copied.put_back(server).await;
    insert(&harness, 1001, 1200).await;
    assert!(harness.ask::<i64>(HERE).await > read, "its end tells nothing");
    let running = harness.start();
    all_appended(&harness, 1001, 1200).await;
    assert_eq!(harness.log.begun(), topic());
    let gap = harness.status_where("a gap", |s| s.gap.is_some()).await.gap.unwrap();
    assert!(gap.reason.contains("set back") && gap.reason.contains("does not hold"), "{gap:?}");
    // What was read before is no measure any more.
    harness.until("the last is noted", || async { seen(&harness).await > read }).await;
    harness.finish(running).await;
    copied.end(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashed_and_reads_again_was_not_set_back() {
    let (directory, server) = server(&[]).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 40).await;
    harness.events(40).await;
    let (files, port) = (server.directory().to_owned(), server.port());
    server.kill_hard().await.unwrap();
    running.stop().await;
    let copied = Copied { directory, files, port };
    let server = copied.start().await;
    let read = seen(&harness).await;
    assert!(harness.ask::<i64>(CONFIRMED).await < read, "the slot has forgotten what was confirmed last");
    let running = harness.start_live().await;
    // Only what was recognized is confirmed again.
    harness.until("confirmed", || async { harness.ask::<i64>(CONFIRMED).await > read }).await;
    insert(&harness, 41, 60).await;
    harness.events(60).await;
    all_appended(&harness, 1, 60).await;
    assert!(harness.log.begun().is_empty());
    assert_eq!(harness.status().await.unwrap().gap, None);
    harness.finish(running).await;
    server.stop().await.unwrap();
}
