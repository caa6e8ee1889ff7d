//! What goes wrong, and what is shown and done then.

use crate::{
    harness::{Harness, payload, scope},
    recording::RecordingLog,
};
use cdc::Manage;
use database::tables::{
    cdc::{MappingState, ReaderState},
    cdc_backfills::{self, Backfill},
};
use serde_json::json;
use shared_types::MappingId;
use sqlx::AssertSqlSafe;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ORDERS: &str = "create table orders (id int primary key, status text)";

/// Every id from 1 to `count`, each once and in order.
fn all_once(log: &Arc<RecordingLog>, count: i64) {
    let ids: Vec<i64> = log.entries().iter().map(|e| payload(e)["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, (1..=count).collect::<Vec<_>>());
}

async fn insert(harness: &Harness, from: i64, to: i64) {
    for id in from..=to {
        harness.sql(&format!("insert into orders values ({id}, 'x')")).await;
    }
}

/// The gauge that is alerted on.
fn lag_seconds(harness: &Harness) -> f64 {
    let shown = harness.metrics.render();
    let line = shown.lines().find(|line| line.starts_with("realtime_cdc_lag_seconds")).expect(&shown);
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

const END_WALSENDERS: &str = "select pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null and database = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_loses_and_doubles_nothing() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    for round in 0..6 {
        insert(&harness, round * 50 + 1, round * 50 + 50).await;
        harness.sql(END_WALSENDERS).await;
    }
    harness.events(300).await;
    all_once(&harness.log, 300);
    harness.live().await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_fail_are_repeated_under_the_same_identities() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 20).await;
    harness.log.fail_next(4);
    insert(&harness, 21, 60).await;
    harness.events(60).await;
    all_once(&harness.log, 60);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_and_doubles_nothing() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let mut running = harness.start_live().await;
    for round in 0..3 {
        insert(&harness, round * 30 + 1, round * 30 + 30).await;
        running.kill().await;
        running = harness.start();
    }
    harness.events(90).await;
    all_once(&harness.log, 90);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_takes_over_at_once_and_has_a_higher_term() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let first = harness.start_live().await;
    let leader = harness.status().await.unwrap().leader;
    let second = harness.start();
    insert(&harness, 1, 5).await;
    harness.events(5).await;
    first.stop().await;
    insert(&harness, 6, 10).await;
    harness.events(10).await;
    let status = harness
        .status_where("led by another", |s| s.leader != leader && s.state == ReaderState::Streaming)
        .await;
    assert!(status.gap.is_none());
    let terms: Vec<u64> = harness
        .log
        .entries()
        .iter()
        .map(|e| match &e.identity {
            event_log::Identity::Positioned { term, .. } => *term,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(terms[0] < terms[9], "{terms:?}");
    harness.finish(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_holds_no_hand_over_up() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let (first, second) = (harness.start_live().await, harness.start());
    let mut locking = harness.pool().begin().await.unwrap();
    sqlx::query("lock table cdc_events in access exclusive mode").execute(&mut *locking).await.unwrap();
    insert(&harness, 1, 5).await;
    harness.events(5).await;
    let lease = async |sql: &str| -> String {
        let sql = format!("select ({sql})::text from leases where name like 'cdc/%'");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(harness.pool()).await.unwrap()
    };
    let (term, runs_out) = (lease("term").await, lease("expires_at").await);
    let stopping = tokio::spawn(first.stop());
    harness.until("another leads", || async { lease("term").await != term }).await;
    assert_eq!(lease(&format!("clock_timestamp() < '{runs_out}'")).await, "true", "it waited for the lease");
    insert(&harness, 6, 6).await;
    harness.events(6).await;
    drop(locking);
    stopping.await.unwrap();
    harness.finish(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_said_and_followed_once_it_is_there() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.mapping(json!({ "table": "later", "topic": "later.changed" })).await;
    let status = harness
        .status_where("one missing", |s| s.mappings.iter().any(|m| m.state == MappingState::Error))
        .await;
    let missing = status.mappings.iter().find(|m| m.table == "later").unwrap();
    assert_eq!(missing.message.as_deref(), Some("relation later does not exist"));
    assert!(missing.cure.is_some());
    insert(&harness, 1, 1).await;
    harness.events(1).await;
    harness.sql("create table later (id int primary key, status text)").await;
    harness.live().await;
    harness.sql("insert into later values (2, 'x')").await;
    harness.events(2).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_made_again_is_followed_again_within_seconds() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    // Right after it was published, so that the publication is again as it was before that.
    harness.sql(&format!("drop table orders; {ORDERS}")).await;
    let (begun, mut id) = (Instant::now(), 1);
    while harness.log.entries().is_empty() {
        insert(&harness, id, id).await;
        id += 1;
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not followed again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    insert(&harness, id, id).await;
    let followed = id;
    harness
        .until("the last row", || async {
            harness.log.entries().iter().any(|e| payload(e)["id"] == json!(followed))
        })
        .await;
    let before = harness.log.entries().len();
    // As a tool does that changes a schema beside the old one.
    harness.sql("create table other (id int primary key, status text, extra text)").await;
    harness.sql("alter table orders rename to gone; alter table other rename to orders").await;
    let begun = Instant::now();
    while harness.log.entries().len() == before {
        id += 1;
        insert(&harness, id, id).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not followed again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    harness.sql("drop table orders").await;
    harness.status_where("missed", |s| s.mappings.iter().any(|m| m.state == MappingState::Error)).await;
    harness.sql(ORDERS).await;
    harness.live().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_waited_for() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let mut transaction = harness.target.pool.begin().await.unwrap();
    sqlx::query("insert into orders values (1, 'x')").execute(&mut *transaction).await.unwrap();
    let running = harness.start();
    let pending = harness
        .status_where("pending", |s| s.mappings.iter().any(|m| m.state == MappingState::Pending))
        .await;
    assert!(pending.mappings[0].message.as_deref().unwrap().contains("waiting for lock"));
    transaction.commit().await.unwrap();
    harness.live().await;
    insert(&harness, 2, 2).await;
    harness
        .until("the second row", || async {
            harness.log.entries().iter().any(|e| payload(e)["id"] == json!(2))
        })
        .await;
    harness.finish(running).await;
}

/// A role of the target, and the target's URL for it.
async fn role(harness: &Harness, attributes: &str) -> String {
    let role = format!("role_{}", harness.target.name);
    harness.sql(&format!("create role {role} login password 'secret' {attributes}")).await;
    harness
        .sql(&format!(
            "grant create on database {} to {role}; grant all on schema public to {role}",
            harness.target.name
        ))
        .await;
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    harness.targets.lock()[0].url = Ok(url.to_string());
    role
}

async fn drop_role(harness: &Harness, role: &str) {
    harness
        .sql(&format!("reassign owned by {role} to current_user; drop owned by {role}; drop role {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_privilege_is_a_state_with_a_cure() {
    let harness = Harness::new(ORDERS).await;
    let mapping = harness.mapping(json!({})).await;
    let role = role(&harness, "").await;
    let running = harness.start();
    // Not the owner of the table.
    let status = harness
        .status_where("refused", |s| {
            s.mappings.iter().any(|m| m.state == MappingState::Error) || s.state == ReaderState::Error
        })
        .await;
    assert_eq!(status.state, ReaderState::Error, "{status:#?}");
    assert_eq!(status.code.as_deref(), Some("PRIVILEGE"));
    let cure = status.cure.as_deref().unwrap();
    assert!(cure.starts_with(&format!("alter role \"{role}\" with replication;")), "{status:#?}");
    harness.sql(cure).await;
    let status = harness
        .status_where("not the owner", |s| s.mappings.iter().any(|m| m.state == MappingState::Error))
        .await;
    assert_eq!(status.mappings[0].code.as_deref(), Some("PRIVILEGE"));
    // Nobody is made a member of a superuser.
    let transfer = format!("alter table \"public\".\"orders\" owner to \"{role}\";");
    let cure = status.mappings[0].cure.as_deref().unwrap();
    assert!(cure.contains(&transfer) && !cure.contains("grant"), "{status:#?}");
    harness.sql(&transfer).await;
    harness.live().await;
    insert(&harness, 1, 1).await;
    harness.events(1).await;
    // Its changes are in the stream whoever owns it, but its rows cannot be read.
    harness.sql(&format!("alter table orders owner to current_user; revoke all on orders from {role}")).await;
    let refused = backfilled(&harness, &mapping).await;
    let cure = refused.cure.unwrap();
    assert_eq!(
        (refused.state.as_str(), cure.as_str()),
        ("failed", &*format!("grant select on \"public\".\"orders\" to \"{role}\";"))
    );
    harness.sql(&cure).await;
    assert_eq!(backfilled(&harness, &mapping).await.state, "done");
    harness.events(2).await;
    running.stop().await;
    harness.drop_slot().await;
    drop_role(&harness, &role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_of_each_cure_runs_as_it_stands_and_leaves_the_table_to_its_owner() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let (role, owner) =
        (role(&harness, "replication").await, format!("Owner of \"{}\"", harness.target.name));
    let quoted = format!("\"{}\"", owner.replace('"', "\"\""));
    let database = &harness.target.name;
    harness
        .sql(&format!(
            "create role {quoted}; grant all on schema public to {quoted}; alter table orders owner to {quoted};
            revoke create on database {database} from {role}"
        ))
        .await;
    let running = harness.start();
    let status = harness.status_where("refused", |s| s.state == ReaderState::Error).await;
    let cure = format!("grant create on database \"{database}\" to \"{role}\";");
    assert_eq!((status.code.as_deref(), status.cure.as_deref()), (Some("PRIVILEGE"), Some(&*cure)));
    let mapping = &status.mappings[0];
    assert_eq!(
        (mapping.state, mapping.code.as_deref(), mapping.cure.as_deref()),
        (MappingState::Error, Some("PRIVILEGE"), Some(&*cure))
    );
    harness.sql(&cure).await;
    let status = harness
        .status_where("not the owner", |s| {
            s.state == ReaderState::Streaming && s.mappings[0].state == MappingState::Error
        })
        .await;
    let cure = status.mappings[0].cure.as_deref().unwrap();
    let grant = format!("grant {quoted} to \"{role}\";");
    assert!(cure.contains(&grant) && cure.contains("owner to"), "{cure}");
    let checked = crate::preflight::findings(&harness, Manage::Allowed).await;
    let refused: Vec<_> = checked.iter().filter(|f| f.code == "PRIVILEGE").map(|f| f.sql.clone()).collect();
    assert_eq!(refused, [Some(grant.clone())]);
    harness.sql(&grant).await;
    harness.live().await;
    insert(&harness, 1, 1).await;
    harness.events(1).await;
    let owned = "select pg_get_userbyid(relowner)::text from pg_class where relname = 'orders'";
    assert_eq!(harness.ask::<String>(owned).await, owner);
    running.stop().await;
    harness.drop_slot().await;
    drop_role(&harness, &role).await;
    drop_role(&harness, &quoted).await;
}

/// A backfill, once it has ended.
async fn backfilled(harness: &Harness, mapping: &MappingId) -> Backfill {
    cdc_backfills::request(harness.pool(), &scope(), mapping, "tests").await.unwrap();
    let last = || async { cdc_backfills::last(harness.pool(), &scope(), mapping).await.unwrap().unwrap() };
    harness.until("ended", || async { matches!(last().await.state.as_str(), "done" | "failed") }).await;
    last().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_its_key_can_be_updated_again_within_seconds() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 1).await;
    harness.events(1).await;
    harness.sql("alter table orders drop constraint orders_pkey").await;
    let begun = Instant::now();
    let update = "update orders set status = 'y'";
    while sqlx::query(update).execute(&harness.target.pool).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it cannot be updated");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    harness.events(2).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_no_writes_is_read_on_and_says_so() {
    let harness = Harness::new(ORDERS).await;
    harness.sql("create table later (id int primary key, status text)").await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    running.stop().await;
    let database = &harness.target.name;
    harness.sql(&format!("alter database {database} set default_transaction_read_only = on")).await;
    harness.mapping(json!({ "table": "later", "topic": "later.changed" })).await;
    let running = harness.start();
    let status =
        harness.status_where("refused", |s| s.mappings.iter().any(|m| m.state == MappingState::Error)).await;
    let refused = status.mappings.iter().find(|m| m.table == "later").unwrap();
    assert!(
        refused.cure.as_deref().is_some_and(|c| c.contains("default_transaction_read_only")),
        "{status:#?}"
    );
    // Whoever asks for it still writes, and is read.
    harness.sql("begin read write; insert into orders values (1, 'x'); commit").await;
    harness.events(1).await;
    let findings = crate::preflight::findings(&harness, Manage::Allowed).await;
    assert!(findings.iter().any(|f| f.code == "READ_ONLY" && f.cure.is_some()), "{findings:#?}");
    harness
        .sql(&format!(
            "begin read write; alter database {database} reset default_transaction_read_only; commit"
        ))
        .await;
    // The connection that looks after the target is of before.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
    harness.sql(end).await;
    harness.live().await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_may_not_be_managed_is_left_alone() {
    let harness = Harness::new(ORDERS).await;
    harness.targets.lock()[0].manage = Manage::Forbidden;
    harness.mapping(json!({ "when": { "changed": "status" } })).await;
    let running = harness.start();
    let status = harness.status_where("refused", |s| s.state == ReaderState::Error).await;
    assert_eq!(status.code.as_deref(), Some("PUBLICATION_MISSING"));
    // Whoever looks at the mapping finds it there too.
    let mapping = &status.mappings[0];
    assert_eq!(mapping.state, MappingState::Error);
    assert_eq!(
        (&mapping.code, &mapping.message, &mapping.cure),
        (&status.code, &status.message, &status.cure)
    );
    // What is committed meanwhile waits, and the longer the later.
    harness.until("a lag that grows", || async { lag_seconds(&harness) > 1.5 }).await;
    // The cure is SQL that works.
    harness.sql(&status.cure.unwrap()).await;
    let status = harness
        .status_where("not published", |s| s.mappings[0].code.as_deref() == Some("NOT_PUBLISHED"))
        .await;
    assert_eq!(status.mappings[0].state, MappingState::Error);
    assert_eq!(
        status.mappings[0].message.as_deref(),
        Some("orders is not in the publication, and the reader may not change the target")
    );
    harness.sql(&format!("alter publication {} add table orders", harness.names().publication)).await;
    let status = harness.live().await;
    harness.until("no lag", || async { lag_seconds(&harness) < 1.0 }).await;
    assert!(status.mappings[0].message.as_deref().unwrap().contains("old rows"));
    insert(&harness, 1, 1).await;
    harness.sql("update orders set id = 1").await;
    let events = harness.events(2).await;
    assert_eq!(crate::harness::metadata(&events[1])["changedUnknown"], json!(true));
    harness.sql(&status.mappings[0].cure.clone().unwrap()).await;
    harness.sql("update orders set id = 1; update orders set status = 'y'").await;
    let events = harness.events(3).await;
    assert_eq!(payload(&events[2])["status"], json!("y"));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_is_made_anew_and_the_gap_is_said() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    insert(&harness, 1, 3).await;
    harness.events(3).await;
    running.stop().await;
    harness.drop_slot().await;
    insert(&harness, 4, 4).await;
    let running = harness.start();
    let status = harness.status_where("gap", |s| s.gap.is_some() && s.state == ReaderState::Streaming).await;
    let gap = status.gap.unwrap();
    assert_eq!(gap.reason, "the replication slot was dropped");
    assert!(gap.from_lsn.is_some_and(|from| !from.is_empty()), "up to where it was read is known");
    harness.live().await;
    insert(&harness, 5, 5).await;
    let events = harness.events(4).await;
    assert_eq!(payload(&events[3])["id"], json!(5));
    // Subscribers are told, once, before anything behind the gap is sent.
    let told =
        |harness: &Harness| harness.log.begun().iter().map(|k| k.topic.to_string()).collect::<Vec<_>>();
    assert_eq!(told(&harness), ["order.changed"]);
    running.kill().await;
    let running = harness.start_live().await;
    insert(&harness, 6, 6).await;
    harness.events(5).await;
    assert_eq!(told(&harness).len(), 1);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_dropped_is_made_anew() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql(&format!("drop publication {}", harness.names().publication)).await;
    insert(&harness, 1, 1).await;
    let status = harness.status_where("gap", |s| s.gap.is_some() && s.state == ReaderState::Streaming).await;
    let reason = status.gap.unwrap().reason;
    assert!(reason.contains("does not exist"), "{reason}");
    harness.live().await;
    insert(&harness, 2, 2).await;
    harness
        .until("the second row", || async {
            harness.log.entries().iter().any(|e| payload(e)["id"] == json!(2))
        })
        .await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_or_unreachable_url_is_shown() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let good = harness.targets.lock()[0].url.clone();
    harness.targets.lock()[0].url = Ok("postgres://u@%2Ftmp/d".to_owned());
    let running = harness.start();
    harness.status_where("bad url", |s| s.code.as_deref() == Some("TARGET_URL")).await;
    harness.targets.lock()[0].url = Ok("postgres://nobody:secret@127.0.0.1:1/nowhere".to_owned());
    let status = harness.status_where("unreachable", |s| s.code.as_deref() == Some("UNREACHABLE")).await;
    let said = format!("{status:?}");
    assert!(!said.contains("secret") && !said.contains("nowhere"), "{said}");
    // Nobody leads it, and yet what is committed there waits.
    harness.until("a lag that grows", || async { lag_seconds(&harness) > 6.0 }).await;
    harness.targets.lock()[0].url = good;
    harness.live().await;
    harness.until("no lag", || async { lag_seconds(&harness) < 1.0 }).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_log_is_waited_for_without_losing_the_connection() {
    let mut harness = Harness::new(ORDERS).await;
    harness.log = RecordingLog::gated();
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders select n, 'x' from generate_series(1, 10000) n").await;
    let end: String = harness.ask("select pg_current_wal_insert_lsn()::text").await;
    let pid = "select active_pid from pg_replication_slots where database = current_database()";
    let before: Option<i32> = harness.ask(pid).await;
    let confirmed = format!(
        "select confirmed_flush_lsn >= '{end}' from pg_replication_slots where database = current_database()"
    );
    // Longer than several confirmations.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(harness.ask::<Option<i32>>(pid).await, before, "still the same connection");
    assert!(!harness.ask::<bool>(&confirmed).await, "nothing is confirmed before it is appended");
    harness.log.let_through(1000);
    harness.events(10_000).await;
    all_once(&harness.log, 10_000);
    assert!(harness.log.batches().iter().all(|size| *size <= 2_000));
    harness.until("confirmed", || async { harness.ask::<bool>(&confirmed).await }).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_confirmed_position_advances_when_nothing_is_mapped() {
    let harness = Harness::new(&format!("{ORDERS}; create table other (id int)")).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql("insert into other select generate_series(1, 1000)").await;
    let caught_up = "select confirmed_flush_lsn >= pg_current_wal_lsn() - 1000::numeric from pg_replication_slots where database = current_database()";
    harness.until("confirmed", || async { harness.ask::<bool>(caught_up).await }).await;
    harness.finish(running).await;
}
