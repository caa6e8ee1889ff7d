//! What goes well.

use crate::harness::{Harness, metadata, payload, scope};
use database::tables::{
    cdc::{MappingState, ReaderState, set_desired},
    cdc_events::{self, CdcEventQuery, Outcome},
    mappings,
};
use event_log::Identity;
use serde_json::json;
use shared_types::{MappingId, mapping::MappingDefinition};

const ORDERS: &str = "create table orders (id int primary key, status text, body text, note text)";

#[tokio::test(flavor = "multi_thread")]
async fn inserts_updates_and_deletes_become_events_in_order() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql("begin; insert into orders values (1, 'open'), (2, 'open'); update orders set status = 'paid' where id = 1; commit").await;
    harness.sql("delete from orders where id = 2").await;
    let events = harness.events(4).await;
    let seen: Vec<_> = events.iter().map(|e| (e.kind.to_string(), payload(e))).collect();
    assert_eq!(
        seen,
        [
            ("database.insert".to_owned(), json!({ "id": 1, "status": "open" })),
            ("database.insert".to_owned(), json!({ "id": 2, "status": "open" })),
            ("database.update".to_owned(), json!({ "id": 1, "status": "paid" })),
            ("database.delete".to_owned(), json!({ "id": 2 })),
        ]
    );
    let last = metadata(&events[3]);
    assert_eq!((last["table"].clone(), last["operation"].clone()), (json!("orders"), json!("delete")));
    assert_eq!(last["unavailable"], json!(["status"]));
    assert!(last["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
    let positions: Vec<_> = events.iter().map(position).collect();
    assert!(positions.is_sorted_by(|a, b| a < b));
    assert_eq!(positions[0].0, positions[2].0, "one transaction, one commit position");
    assert!(
        events.iter().all(|e| e.id.as_str().starts_with("evt_") && e.key.topic.as_str() == "order.changed")
    );
    harness.finish(running).await;
}

fn position(entry: &event_log::Entry) -> (u64, u64) {
    match &entry.identity {
        Identity::Positioned { at, .. } => (at.lsn, at.ordinal),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_sets_full_identity_and_filters() {
    let harness = Harness::new(ORDERS).await;
    harness
        .mapping(
            json!({ "when": { "changed": "status" }, "payload": { "id": "$row.id", "from": "$old.status" } }),
        )
        .await;
    let running = harness.start_live().await;
    let identity: String =
        harness.ask("select relreplident::text from pg_class where relname = 'orders'").await;
    assert_eq!(identity, "f");
    harness.sql("insert into orders values (1, 'open')").await;
    harness.sql("update orders set note = 'x' where id = 1").await;
    harness.sql("update orders set status = 'paid' where id = 1").await;
    let events = harness.events(2).await;
    assert_eq!(payload(&events[1]), json!({ "id": 1, "from": "open" }));
    assert_eq!(metadata(&events[1]).get("changedUnknown"), None);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_that_an_update_left_alone_is_unavailable() {
    let harness =
        Harness::new(&format!("{ORDERS}; alter table orders alter body set storage external")).await;
    harness.mapping(json!({ "payload": { "id": "$row.id", "body": "$row.body" } })).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'open', repeat('x', 10000))").await;
    harness.sql("update orders set status = 'paid'").await;
    let events = harness.events(2).await;
    assert_eq!(payload(&events[0])["body"].as_str().map(str::len), Some(10_000));
    assert_eq!(payload(&events[1]), json!({ "id": 1 }));
    assert_eq!(metadata(&events[1])["unavailable"], json!(["body"]));
    // Another mapping that needs old rows makes it known.
    harness.mapping(json!({ "topic": "order.body", "events": ["update"], "when": { "not": { "changed": "body" } }, "payload": { "body": "$row.body" } })).await;
    harness.live().await;
    harness.sql("update orders set status = 'sent'").await;
    let events = harness.events(4).await;
    assert!(events[2..].iter().all(|e| payload(e)["body"].as_str().map(str::len) == Some(10_000)));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mappings_come_change_and_go_while_it_runs() {
    let harness =
        Harness::new(&format!("{ORDERS}; create schema shop; create table shop.items (sku text)")).await;
    let first = harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness
        .mapping(json!({ "table": "shop.items", "topic": "item.changed", "payload": { "sku": "$row.sku" } }))
        .await;
    harness.live().await;
    // A table without a key gets a full identity, so that its own updates go on working.
    harness.sql("insert into shop.items values ('a'); update shop.items set sku = 'b'").await;
    let events = harness.events(2).await;
    assert_eq!(
        (metadata(&events[1])["table"].clone(), payload(&events[1])),
        (json!("shop.items"), json!({ "sku": "b" }))
    );

    let mut transaction = harness.pool().begin().await.unwrap();
    let old = mappings::lock(&mut transaction, &scope(), &first).await.unwrap().unwrap();
    let new = old.definition.patched(&json!({ "topic": "order.renamed" })).unwrap();
    let updated = mappings::update(&mut transaction, &scope(), &first, &new).await.unwrap().unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(updated.version, 2);
    let mut id = 10;
    harness
        .until("renamed", || {
            id += 1;
            let (harness, id) = (&harness, id);
            async move {
                harness.sql(&format!("insert into orders values ({id}, 'x')")).await;
                harness.log.entries().iter().any(|e| e.key.topic.as_str() == "order.renamed")
            }
        })
        .await;

    assert!(mappings::delete(harness.pool(), &scope(), &first).await.unwrap());
    harness.status_where("one mapping", |s| s.mappings.len() == 1).await;
    let tables: i64 = harness.ask("select count(*) from pg_publication_tables").await;
    assert_eq!(tables, 1);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_after_live_is_never_missed() {
    let harness = Harness::new(ORDERS).await;
    let running = harness.start();
    for round in 0..5 {
        let table = format!("t{round}");
        harness.sql(&format!("create table {table} (id int primary key, status text)")).await;
        harness.mapping(json!({ "table": table, "topic": format!("topic.{round}") })).await;
        harness.live().await;
        harness.sql(&format!("insert into {table} values ({round}, 'x')")).await;
    }
    harness.events(5).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mappings_the_target_keeps_nothing_for_us() {
    let harness = Harness::new(ORDERS).await;
    let running = harness.start();
    harness.status_where("idle", |s| s.code.as_deref() == Some("NO_MAPPINGS")).await;
    let id = harness.mapping(json!({})).await;
    harness.live().await;
    let slots =
        format!("select count(*) from pg_replication_slots where slot_name = '{}'", harness.names().slot);
    assert_eq!(harness.ask::<i64>(&slots).await, 1);
    harness.sql("insert into orders values (1, 'open')").await;
    harness
        .status_where("kept", |s| s.retained_bytes.is_some_and(|kept| kept > 0) && s.lag_bytes.is_some())
        .await;
    assert!(mappings::delete(harness.pool(), &scope(), &id).await.unwrap());
    let status = harness.status_where("idle", |s| s.state == ReaderState::Stopped).await;
    assert_eq!((status.retained_bytes, status.lag_bytes), (None, None));
    let shown = harness.metrics.render();
    assert!(shown.lines().any(|line| line == "realtime_cdc_retained_bytes 0"), "{shown}");
    assert_eq!(harness.ask::<i64>(&slots).await, 0);
    assert_eq!(harness.ask::<i64>("select count(*) from pg_publication").await, 0);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_keeps_the_slot_and_start_catches_up() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    set_desired(harness.pool(), &scope(), false).await.unwrap();
    harness.status_where("stopped", |s| s.state == ReaderState::Stopped).await;
    harness.sql("insert into orders values (1, 'while stopped')").await;
    set_desired(harness.pool(), &scope(), true).await.unwrap();
    harness.live().await;
    assert_eq!(payload(&harness.events(1).await[0])["status"], json!("while stopped"));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_confirmed_before_a_reader_stops() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    for number in 1..=4 {
        let running = harness.start_live().await;
        let insert =
            format!("insert into orders values ({number}, 'x') returning pg_current_wal_insert_lsn()::text");
        let before_commit: String = harness.ask(&insert).await;
        harness.events(number).await;
        running.stop().await;
        let confirmed = format!(
            "select confirmed_flush_lsn > '{before_commit}' from pg_replication_slots where slot_name = '{}'",
            harness.names().slot
        );
        harness.until("it is confirmed", || async { harness.ask::<bool>(&confirmed).await }).await;
    }
    let running = harness.start_live().await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_no_scope_names_any_more_is_given_up() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.targets.lock().clear();
    let slots =
        format!("select count(*) from pg_replication_slots where slot_name = '{}'", harness.names().slot);
    harness.until("given up", || async { harness.ask::<i64>(&slots).await == 0 }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_target_of_two_scopes_has_one_reader() {
    let harness = Harness::new(ORDERS).await;
    let staging = shared_types::Scope::new(scope().application().clone(), shared_types::Environment::Staging);
    let mut second = harness.targets.lock()[0].clone();
    second.scope = staging.clone();
    // Another URL of the same database.
    second.url = second.url.map(|url| url.replace("127.0.0.1", "localhost"));
    harness.targets.lock().push(second);
    let id = harness.mapping(json!({})).await;
    let definition: MappingDefinition =
        mappings::get(harness.pool(), &scope(), &id).await.unwrap().unwrap().definition;
    let mut transaction = harness.pool().begin().await.unwrap();
    // The same mapping id, as after a promotion.
    mappings::create(&mut transaction, &staging, &id, &definition).await.unwrap();
    transaction.commit().await.unwrap();
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'open')").await;
    let events = harness.events(2).await;
    assert_eq!((&events[0].key.scope, &events[1].key.scope), (&scope(), &staging));
    assert_ne!(events[0].id, events[1].id);
    assert_eq!(harness.ask::<i64>("select count(*) from pg_stat_replication where application_name <> 'x' and pid in (select active_pid from pg_replication_slots where database = current_database())").await, 1);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_columns_of_a_table_take_effect() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({ "payload": { "id": "$row.id", "extra": "$row.extra" } })).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'open')").await;
    let events = harness.events(1).await;
    assert_eq!(metadata(&events[0])["unavailable"], json!(["extra"]));
    let status = harness.status_where("misfit", |s| s.mappings[0].state == MappingState::Error).await;
    assert_eq!(status.mappings[0].message.as_deref(), Some("the row changes of orders hold no column extra"));
    harness.sql("alter table orders add extra int generated always as (7) stored").await;
    harness.sql("insert into orders values (2, 'open')").await;
    assert_eq!(metadata(&harness.events(2).await[1])["unavailable"], json!(["extra"]));
    let status = harness.status().await.unwrap();
    assert_eq!(status.mappings[0].state, MappingState::Error);
    assert!(status.mappings[0].cure.as_deref().is_some_and(|cure| cure.contains("generated")), "{status:#?}");
    harness.sql("alter table orders drop extra; delete from orders where id = 2").await;
    harness.events(3).await;
    harness.sql("alter table orders add extra int default 7").await;
    harness.sql("insert into orders values (2, 'open')").await;
    assert_eq!(payload(&harness.events(4).await[3]), json!({ "id": 2, "extra": 7 }));
    // What did not fit fits now, and that is said.
    harness.live().await;
    harness.sql("alter table orders drop extra; insert into orders values (3, 'open')").await;
    assert_eq!(payload(&harness.events(5).await[4]), json!({ "id": 3 }));
    // A type that did not exist when the reader began.
    harness
        .sql("create domain positive as int check (value > 0); alter table orders add extra positive[]")
        .await;
    harness.sql("insert into orders values (4, 'open', null, null, '{1,2}')").await;
    assert_eq!(payload(&harness.events(6).await[5]), json!({ "id": 4, "extra": [1, 2] }));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_followed_as_one() {
    let harness = Harness::new(
        "create table orders (id int primary key, status text) partition by range (id);
         create table orders_low partition of orders for values from (0) to (100);
         create table \"orders High\" partition of orders for values from (100) to (200)",
    )
    .await;
    harness.mapping(json!({ "when": { "changed": "status" } })).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'low'), (101, 'high')").await;
    harness.sql("update orders set status = 'low'; update orders set status = 'done' where id = 101").await;
    let events = harness.events(4).await;
    assert!(events.iter().all(|e| metadata(e)["table"] == json!("orders")));
    let ids: Vec<_> = events.iter().map(|e| payload(e)["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 101, 101, 101]);
    assert!(events.iter().all(|e| metadata(e).get("changedUnknown").is_none()));
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_each_change_is_written_down() {
    let harness = Harness::new(ORDERS).await;
    let paid = harness.mapping(json!({ "when": { "eq": ["$row.status", "paid"] } })).await;
    let misfit =
        harness.mapping(json!({ "topic": "order.misfit", "when": { "isNull": "$row.nowhere" } })).await;
    let running = harness.start();
    let states = |s: &database::tables::cdc::ReaderStatus| {
        s.state == ReaderState::Streaming && s.mappings.iter().all(|m| m.state != MappingState::Pending)
    };
    harness.status_where("streaming", states).await;
    harness
        .sql("begin; insert into orders values (1, 'open'); insert into orders values (2, 'paid'); commit")
        .await;
    let event = harness.events(1).await.remove(0);
    let all = CdcEventQuery::default();
    harness
        .until("written down", || async {
            cdc_events::list(harness.pool(), &scope(), &all, 10).await.unwrap().len() == 2
        })
        .await;
    let found = cdc_events::list(harness.pool(), &scope(), &all, 10).await.unwrap();
    let [second, first] = &found[..] else { panic!("{found:?}") };
    assert_eq!((first.outcome.as_str(), second.outcome.as_str()), ("failed", "routed"));
    assert_eq!(second.key.as_ref().unwrap().get(), "{\"id\":2}");
    assert_eq!((first.ordinal, second.ordinal), (0, 1));
    assert_eq!(first.lsn, second.lsn);
    let result =
        |of: &MappingId| second.results.iter().find(|r| r.mapping_id == of.as_str()).unwrap().clone();
    assert_eq!(result(&paid).event_id.as_deref(), Some(event.id.as_str()));
    assert_eq!(result(&paid).topic.as_deref(), Some("order.changed"));
    assert!(result(&misfit).reason.unwrap().contains("nowhere"));
    let held_back = &first.results.iter().find(|r| r.mapping_id == paid.as_str()).unwrap().reason;
    assert_eq!(held_back.as_deref(), Some("when: the condition does not hold"));
    let only = CdcEventQuery { outcome: Some(Outcome::Routed), ..CdcEventQuery::default() };
    assert_eq!(cdc_events::list(harness.pool(), &scope(), &only, 10).await.unwrap().len(), 1);
    let before = CdcEventQuery { before: Some(second.id), ..CdcEventQuery::default() };
    assert_eq!(cdc_events::list(harness.pool(), &scope(), &before, 10).await.unwrap().len(), 1);
    assert_eq!(
        cdc_events::remove_older(harness.pool(), std::time::Duration::from_secs(60)).await.unwrap(),
        0
    );
    assert_eq!(cdc_events::remove_older(harness.pool(), std::time::Duration::ZERO).await.unwrap(), 2);
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_written_down_with_its_key_where_its_identity_is_one() {
    let harness = Harness::new(
        "create table pairs (a int, b int, primary key (a, b)); create table wholes (a int primary key, b int);
        alter table wholes replica identity full",
    )
    .await;
    for (table, topic) in [("pairs", "a.b"), ("wholes", "a.c")] {
        harness.mapping(json!({ "table": table, "topic": topic, "payload": { "a": "$row.a" } })).await;
    }
    let running = harness.start_live().await;
    harness.sql("insert into pairs values (1, 2); insert into wholes values (3, 4)").await;
    let all = CdcEventQuery::default();
    let found = async || cdc_events::list(harness.pool(), &scope(), &all, 10).await.unwrap();
    harness.until("written down", || async { found().await.len() == 2 }).await;
    let keys: Vec<Option<String>> =
        found().await.iter().rev().map(|event| event.key.as_ref().map(|key| key.get().to_owned())).collect();
    assert_eq!(keys, [Some("{\"a\":1,\"b\":2}".to_owned()), None]);
    harness.finish(running).await;
}
