//! The contract of presence on PostgreSQL, and what a crash of the server does to it.

use database::presence::PostgresPresence;
use local_postgres::{LocalPostgres, Options};
use presence::{Kind, Member, Place, Presence as _, Renewal, contract::Store};
use shared_types::{AppId, Environment, Scope};
use sqlx::postgres::PgPoolOptions;
use std::{os::unix::fs::PermissionsExt as _, sync::Arc};
use testkit::TestDatabase;

async fn start() -> (TestDatabase, Store) {
    let database = testkit::database().await;
    let store = Arc::new(PostgresPresence::new(database.pool.clone()));
    (database, store)
}

presence::contract_tests!(start);

/// A crash empties the table of members, and leaves the leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_lease_learns_that_a_crash_took_its_members() {
    let directory = tempfile::tempdir().unwrap();
    // The server may run as another user than this test.
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options::new(directory.path().join("pg"));
    let server = LocalPostgres::start(options.clone()).await.unwrap();
    let pool = PgPoolOptions::new().connect_lazy(&server.url("realtime")).unwrap();
    database::migrate::latest(&pool).await.unwrap();
    let store = PostgresPresence::new(pool);
    let scope = Scope::new(AppId::from_stored("app_a"), Environment::Development);
    let room = Place { kind: Kind::Present, name: "room".to_owned() };
    let member = Member {
        client_id: "alice".to_owned(),
        socket_id: "s1".to_owned(),
        data: serde_json::Value::Null,
        joined_at: 7,
    };
    assert_eq!(store.renew("i1").await.unwrap(), Renewal::Lapsed);
    store.enter(&scope, &room, "i1", member.clone()).await.unwrap();
    assert_eq!(store.renew("i1").await.unwrap(), Renewal::Held);

    let port = server.port();
    server.kill_hard().await.unwrap();
    let _server = LocalPostgres::start(Options { port: Some(port), ..options }).await.unwrap();
    let renewed = loop {
        // Connections of before the crash may still be in the pool.
        if let Ok(renewed) = store.renew("i1").await {
            break renewed;
        }
    };
    assert!(store.members(&scope, &room, None, 10).await.unwrap().is_empty(), "the crash took it");
    assert_eq!(renewed, Renewal::Emptied);
    store.enter(&scope, &room, "i1", member.clone()).await.unwrap();
    assert_eq!(store.renew("i1").await.unwrap(), Renewal::Held, "it is told once");
    assert_eq!(store.members(&scope, &room, None, 10).await.unwrap(), [member]);
}
