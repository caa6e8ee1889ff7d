//! The tables behind it.

use crate::harness::scope;
use database::tables::{
    cdc::{self, ReaderState, ReaderStatus, StatusWriter},
    leases, mappings,
};
use serde_json::json;
use shared_types::{AppId, Environment, MappingId, Scope, TopicName, mapping::MappingDefinition};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

fn definition(topic: &str) -> MappingDefinition {
    MappingDefinition::parse(&json!({
        "table": "orders", "topic": topic, "events": ["insert"], "payload": { "z": "$row.id", "a": 1 }
    }))
    .unwrap()
}

#[tokio::test]
async fn mappings_are_kept_by_scope_with_versions_and_subscriptions() {
    let database = testkit::database().await;
    let other = Scope::new(AppId::from_stored("app_default"), Environment::Production);
    let before = cdc::version(&database.pool).await.unwrap();
    let mut ids = Vec::new();
    for topic in ["a.one", "a.two", "a.one"] {
        let id = MappingId::generate();
        let mut transaction = database.pool.begin().await.unwrap();
        mappings::create(&mut transaction, &scope(), &id, &definition(topic)).await.unwrap();
        transaction.commit().await.unwrap();
        ids.push(id);
    }
    assert!(cdc::version(&database.pool).await.unwrap() > before);
    let first = mappings::get(&database.pool, &scope(), &ids[0]).await.unwrap().unwrap();
    assert!(first.active && first.version == 1);
    let json = first.to_json().to_string();
    assert!(json.starts_with(&format!("{{\"id\":\"{}\",\"table\":\"orders\"", ids[0])), "{json}");
    assert!(
        json.contains("\"payload\":{\"z\":\"$row.id\",\"a\":1},\"environment\":\"development\""),
        "{json}"
    );
    assert!(mappings::get(&database.pool, &other, &ids[0]).await.unwrap().is_none());

    let page = mappings::list(&database.pool, &scope(), None, 2).await.unwrap();
    let rest = mappings::list(&database.pool, &scope(), Some(page[1].id.as_str()), 2).await.unwrap();
    assert_eq!((page.len(), rest.len()), (2, 1));
    let topic = TopicName::parse("a.one").unwrap();
    assert_eq!(mappings::by_topic(&database.pool, &scope(), &topic, None, 10).await.unwrap().len(), 2);

    let subscriptions = cdc::subscriptions(&database.pool, &scope(), None, 10).await.unwrap();
    assert_eq!(subscriptions.len(), 3);
    let off = cdc::set_active(&database.pool, &scope(), &subscriptions[0].id, false).await.unwrap().unwrap();
    assert!(!off.active);
    assert!(cdc::set_active(&database.pool, &other, &subscriptions[0].id, true).await.unwrap().is_none());
    assert_eq!(mappings::active(&database.pool, &[scope(), other.clone()]).await.unwrap().len(), 2);
    let again = cdc::subscribe(&database.pool, &scope(), &ids[1]).await.unwrap();
    assert_eq!(again.mapping_id, ids[1].as_str());
    assert_eq!(cdc::subscriptions(&database.pool, &scope(), None, 10).await.unwrap().len(), 3);

    assert!(!mappings::delete(&database.pool, &other, &ids[0]).await.unwrap());
    assert!(mappings::delete(&database.pool, &scope(), &ids[0]).await.unwrap());
    assert_eq!(cdc::subscriptions(&database.pool, &scope(), None, 10).await.unwrap().len(), 2);
    let missing = Scope::new(AppId::from_stored("app_none"), Environment::Production);
    let mut connection = database.pool.acquire().await.unwrap();
    let refused = mappings::create(&mut connection, &missing, &ids[0], &definition("a.b")).await.unwrap_err();
    assert!(refused.violates("mappings_scope"), "{refused}");
    let taken = mappings::create(&mut connection, &scope(), &ids[1], &definition("a.b")).await.unwrap_err();
    assert!(taken.violates("mappings_pkey"), "{taken}");
}

#[tokio::test]
async fn a_lease_has_one_holder_and_a_growing_term() {
    let database = testkit::database().await;
    let pool = &database.pool;
    let long = Duration::from_secs(60);
    assert_eq!(leases::acquire(pool, "x", "a", None, long).await.unwrap(), Some(1));
    assert_eq!(leases::acquire(pool, "x", "b", None, long).await.unwrap(), None);
    assert!(leases::renew(pool, "x", 1, None, long).await.unwrap());
    leases::release(pool, "x", 1).await.unwrap();
    assert!(!leases::renew(pool, "x", 1, None, long).await.unwrap());
    assert_eq!(leases::acquire(pool, "x", "b", None, Duration::ZERO).await.unwrap(), Some(2));
    // Run out.
    assert_eq!(leases::acquire(pool, "x", "a", None, long).await.unwrap(), Some(3));
    leases::release(pool, "x", 2).await.unwrap();
    assert!(leases::renew(pool, "x", 3, None, long).await.unwrap(), "an old term gives nothing back");
    assert_eq!(leases::acquire(pool, "y", "b", None, long).await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_lease_ends_with_its_holders_session() {
    let database = testkit::database().await;
    let (pool, long) = (&database.pool, Duration::from_secs(60));
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let session = leases::session(&mut connection).await.unwrap();
    assert_eq!(leases::acquire(pool, "x", "a", Some(session), long).await.unwrap(), Some(1));
    assert_eq!(leases::acquire(pool, "x", "b", None, long).await.unwrap(), None);
    drop(connection);
    let taken = async {
        loop {
            if let Some(term) = leases::acquire(pool, "x", "b", None, long).await.unwrap() {
                return term;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), taken).await.unwrap(), 2);
}

#[tokio::test]
async fn a_bystander_does_not_write_over_a_fresh_status() {
    let database = testkit::database().await;
    let pool = &database.pool;
    assert!(cdc::status(pool, &scope()).await.unwrap().is_none());
    assert!(cdc::desired(pool, &scope()).await.unwrap());
    let streaming =
        ReaderStatus { state: ReaderState::Streaming, slot: Some("s".into()), ..ReaderStatus::default() };
    cdc::write_status(pool, &scope(), StatusWriter::Leader, &streaming).await.unwrap();
    let failed =
        ReaderStatus { state: ReaderState::Error, code: Some("X".into()), ..ReaderStatus::default() };
    cdc::write_status(pool, &scope(), StatusWriter::Bystander, &failed).await.unwrap();
    assert_eq!(cdc::status(pool, &scope()).await.unwrap().unwrap().state, ReaderState::Streaming);
    sqlx::query("update cdc_reader_status set updated_at = now() - interval '6 seconds'")
        .execute(pool)
        .await
        .unwrap();
    cdc::write_status(pool, &scope(), StatusWriter::Bystander, &failed).await.unwrap();
    let status = cdc::status(pool, &scope()).await.unwrap().unwrap();
    assert_eq!((status.state, status.slot.as_deref()), (ReaderState::Error, Some("s")));
    // Where nobody reads any more, who knows better says so at once; but not over a leader that is idle.
    let write = async |writer, leader: Option<&str>, code: &str| {
        let (leader, code) = (leader.map(str::to_owned), Some(code.to_owned()));
        let stopped = ReaderStatus { state: ReaderState::Stopped, leader, code, ..ReaderStatus::default() };
        cdc::write_status(pool, &scope(), writer, &stopped).await.unwrap()
    };
    assert!(write(StatusWriter::Leader, Some("one"), "NO_MAPPINGS").await);
    assert!(!write(StatusWriter::Bystander, None, "STOPPED").await);
    assert!(write(StatusWriter::Leader, None, "LEADER_LEFT").await);
    assert!(write(StatusWriter::Bystander, None, "STOPPED").await);
    // What is said already is not written again each time.
    assert!(!write(StatusWriter::Bystander, None, "STOPPED").await);
    cdc::set_desired(pool, &scope(), false).await.unwrap();
    assert_eq!(cdc::stopped(pool).await.unwrap(), [scope()]);
    assert!(!cdc::desired(pool, &scope()).await.unwrap());
}
