//! A server that Sentinels name, and its replacement.

use crate::harness::{Instance, append_one, key, payloads, soon, unique, whole};
use event_log::{EventLog as _, LogError, Outcome, TopicKey};
use redis_layer::{RedisSettings, event_log::RedisEventLog};
use shared_types::Position;
use std::sync::Arc;
use testkit::{LocalRedis, LocalSentinel, Persistence};

/// Appends one event as a caller does who is told to try again.
async fn append_at_last(log: &Arc<RedisEventLog>, key: &TopicKey, number: u64) -> Position {
    let appended = async {
        loop {
            match log.append(vec![unique(key, number)]).await {
                Ok(outcomes) => match &outcomes[0] {
                    Outcome::Appended(position) => return position.clone(),
                    other => panic!("{other:?}"),
                },
                Err(LogError::Unavailable(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    soon("a replica takes over", appended).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_begins_anew() {
    let (mut master, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let port = master.port().to_string();
    let replica = LocalRedis::start_with(Persistence::Always, &["--replicaof", "127.0.0.1", &port]);
    let sentinel = LocalSentinel::start(&master);
    let (writer, reader) = (
        Instance::start(RedisSettings::new(sentinel.url()), &database),
        Instance::start(RedisSettings::new(sentinel.url()), &database),
    );
    let key = key("order.updated");
    let mut live = reader.log.live();
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    let mut before = Position::new("", 0);
    for number in 1..=3 {
        before = append_one(&writer.log, &key, number).await;
    }
    assert_eq!(before.offset, 3);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(soon("live events", live.events.recv()).await.expect("the reader lives"));
    }
    assert_eq!(seen.last().expect("three").position, before);
    sentinel.wait_for_replica();

    master.kill();
    let after = append_at_last(&writer.log, &key, 4).await;
    assert_ne!(after.epoch, before.epoch, "the replica may not have had everything");
    let role = replica.command(&["ROLE"]);
    assert_eq!(role[0], "master");
    let batch = soon("live events", live.events.recv()).await.expect("the reader lives");
    assert_eq!((&batch[0].position, payloads(&batch)), (&after, vec!["{\"n\":4}".to_owned()]));
    assert_eq!(payloads(&whole(&reader.log, &key).await), ["{\"n\":4}"], "nothing of the lost past");

    // The one that was replaced comes back, and nobody takes it for what it was.
    master.restart();
    let next = append_at_last(&reader.log, &key, 5).await;
    assert_eq!((&next.epoch, next.offset), (&after.epoch, after.offset + 1));
    assert_eq!(payloads(&whole(&writer.log, &key).await), ["{\"n\":4}", "{\"n\":5}"]);
}
