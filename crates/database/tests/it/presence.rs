//! The contract of presence on PostgreSQL.

use database::presence::PostgresPresence;
use presence::contract::Store;
use std::sync::Arc;
use testkit::TestDatabase;

async fn start() -> (TestDatabase, Store) {
    let database = testkit::database().await;
    let store = Arc::new(PostgresPresence::new(database.pool.clone()));
    (database, store)
}

presence::contract_tests!(start);
