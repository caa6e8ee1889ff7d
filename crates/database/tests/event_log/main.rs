//! The event log's contract on PostgreSQL, and what only PostgreSQL can get wrong.

mod messages;
mod retention;
mod storage;

use database::event_log::{LogSettings, PostgresEventLog};
use event_log::contract::Log;
use metrics::Metrics;
use testkit::TestDatabase;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Keeps the store and the instances alive for a test.
pub struct Guard {
    _tasks: JoinSet<()>,
    _database: TestDatabase,
}

async fn start() -> (Guard, Log, Log) {
    let database = testkit::database().await;
    let mut tasks = JoinSet::new();
    let mut instance = || -> Log {
        let stop = CancellationToken::new();
        PostgresEventLog::start(
            database.pool.clone(),
            LogSettings::default(),
            Metrics::new(),
            &mut tasks,
            stop,
        )
    };
    let (first, second) = (instance(), instance());
    (Guard { _tasks: tasks, _database: database }, first, second)
}

event_log::contract_tests!(start);
