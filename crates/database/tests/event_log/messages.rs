//! Messages after a crash of the server, which empties their table.

use database::event_log::{LogSettings, PostgresEventLog};
use event_log::{EventLog as _, Message, TopicKey};
use metrics::Metrics;
use shared_types::{AppId, Environment, Scope, TopicName};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

fn say(n: usize) -> Message {
    let scope = Scope::new(AppId::from_stored("app_a"), Environment::Development);
    let key = TopicKey::new(&scope, &TopicName::parse("chat:room1").expect("a name"));
    Message { key, body: format!("{{\"n\":{n}}}").into() }
}

#[tokio::test]
async fn they_are_heard_though_a_crash_set_their_numbers_back() {
    let database = testkit::database().await;
    let mut tasks = JoinSet::new();
    let (pool, stop) = (database.pool.clone(), CancellationToken::new());
    let log = PostgresEventLog::start(pool, LogSettings::default(), Metrics::new(), &mut tasks, stop);
    let mut live = log.live();
    live.watch.watch(vec![say(0).key]).await.unwrap();
    let mut heard = async |n: usize| {
        let message = tokio::time::timeout(PATIENCE, live.messages.recv()).await;
        assert_eq!(message.expect("in time"), Some(say(n)));
    };
    for n in 0..10 {
        log.announce(vec![say(n)]).await.unwrap();
        heard(n).await;
    }
    // What recovery does with an unlogged table and, from PostgreSQL 15 on, with its numbers.
    sqlx::query("truncate event_log_messages restart identity").execute(&database.pool).await.unwrap();
    for n in 10..15 {
        log.announce(vec![say(n)]).await.unwrap();
        heard(n).await;
    }
}
