//! Outboxes in target databases: made, found, owned by one scope, and what is said where they cannot be read.

use crate::harness::{Harness, numbers, scope, until};
use database::tables::outbox as status;
use shared_types::{Environment, Scope};
use sqlx::PgPool;
use testkit::TestDatabase;

async fn write(target: &TestDatabase, number: i64) {
    let sql = "insert into event_outbox (topic, event_type, payload)
        values ('order.placed', 'x', jsonb_build_object('n', $1::bigint))";
    sqlx::query(sql).bind(number).execute(&target.pool).await.unwrap();
}

async fn waiting(pool: &PgPool) -> i64 {
    let sql = "select count(*) from event_outbox where processed_at is null";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn code(harness: &Harness, scope: &Scope) -> Option<String> {
    status::status(harness.pool(), scope).await.unwrap().and_then(|status| status.code)
}

fn staging() -> Scope {
    Scope::new(scope().application().clone(), Environment::Staging)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_targets_rows_are_events_of_its_owner() {
    let (harness, target) = (Harness::new().await, testkit::empty_database().await);
    let installed = outbox::install(&target.url).await.unwrap();
    assert_eq!((installed.database.as_str(), installed.pending), (target.name.as_str(), 0));
    for number in 0..250 {
        write(&target, number).await;
    }
    assert_eq!(outbox::install(&target.url).await.unwrap().pending, 250, "installing again changes nothing");
    harness.set_outbox(Environment::Staging, Some(&target.url)).await;
    let services = [harness.start(), harness.start()];
    until("all are read", async || waiting(&target.pool).await == 0).await;
    assert_eq!(numbers(&harness.events(&staging(), "order.placed").await), (0..250).collect::<Vec<_>>());
    assert!(harness.events(&scope(), "order.placed").await.is_empty());
    until("it is shown", async || {
        let status = status::status(harness.pool(), &staging()).await.unwrap();
        status.is_some_and(|status| status.code.is_none() && status.pending == 0)
    })
    .await;
    for service in services {
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_table_of_that_name_is_left_alone() {
    let target = testkit::empty_database().await;
    sqlx::query("create table event_outbox (id int)").execute(&target.pool).await.unwrap();
    assert!(outbox::install(&target.url).await.is_err());
    let columns = "select count(*) from information_schema.columns where table_name = 'event_outbox'";
    assert_eq!(sqlx::query_scalar::<_, i64>(columns).fetch_one(&target.pool).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_has_one_owner_whatever_url_leads_to_it() {
    let (harness, target) = (Harness::new().await, testkit::empty_database().await);
    outbox::install(&target.url).await.unwrap();
    harness.set_outbox(Environment::Development, Some(&target.url)).await;
    let service = harness.start();
    write(&target, 1).await;
    until("the first reads", async || waiting(&target.pool).await == 0).await;
    let alias = match target.url.replace("127.0.0.1", "localhost") {
        same if same == target.url => target.url.replace("localhost", "127.0.0.1"),
        other => other,
    };
    assert_ne!(alias, target.url);
    harness.set_outbox(Environment::Staging, Some(&alias)).await;
    until("the second is refused", async || {
        code(&harness, &staging()).await.as_deref() == Some("OWNED_BY_ANOTHER")
    })
    .await;
    write(&target, 2).await;
    until("the first goes on", async || waiting(&target.pool).await == 0).await;
    assert_eq!(numbers(&harness.events(&scope(), "order.placed").await), [1, 2]);

    harness.set_outbox(Environment::Development, None).await;
    until("the second takes over", async || {
        code(&harness, &staging()).await.is_none()
            && harness.count("select count(*) from outbox_targets where environment = 'staging'").await == 1
    })
    .await;
    write(&target, 3).await;
    until("it reads", async || waiting(&target.pool).await == 0).await;
    assert_eq!(numbers(&harness.events(&staging(), "order.placed").await), [3]);
    assert_eq!(status::status(harness.pool(), &scope()).await.unwrap(), None);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_with_its_cure_and_looked_at_again() {
    let (harness, target) = (Harness::new().await, testkit::empty_database().await);
    harness.set_outbox(Environment::Development, Some(&target.url)).await;
    harness.set_outbox(Environment::Staging, Some("postgresql://nobody:x@127.0.0.1:1/nothing")).await;
    let service = harness.start();
    until("the table is missed", async || code(&harness, &scope()).await.as_deref() == Some("NO_TABLE"))
        .await;
    let said = status::status(harness.pool(), &scope()).await.unwrap().unwrap();
    assert!(said.cure.unwrap().contains("realtime outbox install"));
    until("the other is not reached", async || {
        code(&harness, &staging()).await.as_deref() == Some("UNREACHABLE")
    })
    .await;
    // Nobody knows what waits there, but for how long it may.
    until("a lag that grows", async || lag_seconds(&harness) > 3.0).await;
    outbox::install(&target.url).await.unwrap();
    write(&target, 1).await;
    until("it reads", async || waiting(&target.pool).await == 0).await;
    until("all is well", async || code(&harness, &scope()).await.is_none()).await;
    until("the other is still not reached", async || lag_seconds(&harness) > 6.0).await;
    harness.set_outbox(Environment::Staging, None).await;
    until("no lag", async || lag_seconds(&harness) < 1.0).await;
    service.stop().await;
}

/// The gauge that is alerted on.
fn lag_seconds(harness: &Harness) -> f64 {
    let shown = harness.metrics.render();
    let line = shown.lines().find(|line| line.starts_with("realtime_outbox_lag_seconds")).expect(&shown);
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}
