//! What happens to servers and connections, and that nothing acknowledged is lost by it.

use crate::harness::{Instance, append_one, entry, key, payloads, soon, unique, whole};
use event_log::{EventLog as _, Identity, LogError, Outcome, Reach, SourcePosition, Start, StoredEvent};
use presence::{Presence as _, Renewal};
use redis_layer::RedisSettings;
use shared_types::{EventId, MappingId};
use std::{sync::Arc, time::Duration};
use testkit::{LocalRedis, Persistence};
use tokio::sync::mpsc;

async fn collect(events: &mut mpsc::Receiver<Vec<Arc<StoredEvent>>>, until: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&until) {
        let batch = soon("live events", events.recv()).await.expect("the reader lives");
        seen.extend(batch.iter().map(|event| event.position.offset));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_are_loaded_again() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let first = append_one(&instance.log, &key, 1).await;
    server.command(&["SCRIPT", "FLUSH"]);
    let second = append_one(&instance.log, &key, 2).await;
    assert_eq!((second.epoch, second.offset), (first.epoch, 2));
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(whole(&instance.log, &key).await.len(), 2);
    server.command(&["SCRIPT", "FLUSH"]);
    let group = instance.log.side_effects("webhooks").await.expect("group");
    server.command(&["SCRIPT", "FLUSH"]);
    append_one(&instance.log, &key, 3).await;
    let partition = event_log::partition_of(&key, 64);
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(group.read(partition, 10).await.expect("read").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_and_double_nothing() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let settings = RedisSettings::new(server.url());
    let (writer, reader) =
        (Instance::start(settings.clone(), &database), Instance::start(settings, &database));
    let key = key("order.updated");
    let mut live = reader.log.live();
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    for number in 1..=300 {
        if number % 50 == 0 {
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        append_one(&writer.log, &key, number).await;
    }
    assert_eq!(collect(&mut live.events, 300).await, (1..=300).collect::<Vec<_>>());
    let expected: Vec<String> = (1..=300).map(|number| format!("{{\"n\":{number}}}")).collect();
    assert_eq!(payloads(&whole(&reader.log, &key).await), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_keeps_everything_goes_on() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let settings = RedisSettings::new(server.url());
    let (writer, reader) =
        (Instance::start(settings.clone(), &database), Instance::start(settings, &database));
    let key = key("order.updated");
    let mut live = reader.log.live();
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    let group = reader.log.side_effects("webhooks").await.expect("group");
    let first = append_one(&writer.log, &key, 1).await;
    // Appends go on while the server is killed, as they would under load.
    let (log, topic) = (writer.log.clone(), key.clone());
    let appending = tokio::spawn(async move {
        let mut last = None;
        for number in 2..=200 {
            last = Some(append_one(&log, &topic, number).await);
        }
        last
    });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.kill();
        server.restart();
    }
    let last = soon("all are appended", appending).await.expect("the task ends").expect("a position");
    assert_eq!((last.epoch, last.offset), (first.epoch, 200), "one epoch, each event once");
    assert_eq!(collect(&mut live.events, 200).await, (1..=200).collect::<Vec<_>>());
    let expected: Vec<String> = (1..=200).map(|number| format!("{{\"n\":{number}}}")).collect();
    assert_eq!(payloads(&whole(&reader.log, &key).await), expected);
    let partition = event_log::partition_of(&key, 64);
    let effects = group.read(partition, 1_000).await.expect("read");
    assert_eq!(effects.len(), 200);
}

/// A restart that may have lost something changes every epoch.
async fn generation_changes(persistence: Persistence) {
    let (mut server, database) = (LocalRedis::start(persistence), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let before = append_one(&instance.log, &key, 1).await;
    server.kill();
    server.restart();
    let after = append_one(&instance.log, &key, 2).await;
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after.offset, 1);
    let query = |start| event_log::HistoryQuery {
        start,
        until: None,
        limit: event_log::PageLimit { events: 10, bytes: 1 << 20 },
    };
    let page = instance.log.history(&key, query(Start::After(before))).await.expect("page");
    assert_eq!((page.reach, payloads(&page.events)), (Reach::OtherEpoch, vec!["{\"n\":2}".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_persistence_begins_anew() {
    generation_changes(Persistence::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_have_lost_its_last_second_begins_anew() {
    generation_changes(Persistence::EverySecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_set_back_to_an_older_file_begins_anew() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let (old, kept) = (key("order.old"), tempfile::tempdir().expect("a directory"));
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let before = append_one(&instance.log, &old, 1).await;
    server.kill();
    copy(&server.directory().join("appendonlydir"), kept.path());
    server.restart();
    let lost = append_one(&instance.log, &old, 2).await;
    assert_eq!((&lost.epoch, lost.offset), (&before.epoch, 2));
    // Everybody who could remember is gone: only the witness in Postgres knows of the second event.
    instance.stop().await;
    server.kill();
    copy(kept.path(), &server.directory().join("appendonlydir"));
    server.restart();
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let after = append_one(&instance.log, &old, 3).await;
    assert_ne!(after.epoch, before.epoch, "a position from the lost past is none of the present");
    assert_eq!(payloads(&whole(&instance.log, &old).await), ["{\"n\":3}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_live_on_through_it_agree_on_one_new_beginning() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let (key, kept) = (key("order.old"), tempfile::tempdir().expect("a directory"));
    let settings = RedisSettings::new(server.url());
    let start = || Instance::start(settings.clone(), &database);
    let instances = [start(), start(), start()];
    let before = append_one(&instances[0].log, &key, 1).await;
    server.kill();
    copy(&server.directory().join("appendonlydir"), kept.path());
    server.restart();
    for (number, instance) in (2..).zip(&instances) {
        append_one(&instance.log, &key, number).await;
    }
    server.kill();
    copy(kept.path(), &server.directory().join("appendonlydir"));
    server.restart();
    // Each has acknowledged something that is gone; the first one to look settles it for all.
    let mut epochs = Vec::new();
    for (number, instance) in (10..).zip(&instances) {
        epochs.push(append_one(&instance.log, &key, number).await.epoch);
    }
    assert_ne!(epochs[0], before.epoch);
    assert_eq!(epochs, vec![epochs[0].clone(); 3]);
    // Nor is the lost past written down as the present's, which the next restart would be judged by.
    for instance in instances {
        instance.stop().await;
    }
    server.kill();
    server.restart();
    let after = append_one(&start().log, &key, 20).await;
    assert_eq!((after.epoch, after.offset), (epochs[0].clone(), 4));
}

/// Replaces what is in `to` by what is in `from`.
pub fn copy(from: &std::path::Path, to: &std::path::Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).expect("a directory");
    for file in std::fs::read_dir(from).expect("files") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_begins_anew_and_readers_go_on() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let mut live = instance.log.live();
    let group = instance.log.side_effects("webhooks").await.expect("group");
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    let before = append_one(&instance.log, &key, 1).await;
    assert_eq!(collect(&mut live.events, 1).await, [1]);
    server.command(&["FLUSHALL"]);
    let after = append_one(&instance.log, &key, 2).await;
    assert_ne!(before.epoch, after.epoch);
    let batch = soon("the new epoch's event", live.events.recv()).await.expect("the reader lives");
    assert_eq!(batch[0].position, after);
    let partition = event_log::partition_of(&key, 64);
    let effects = group.read(partition, 10).await.expect("read");
    assert_eq!(effects.iter().map(|effect| &effect.event.position).collect::<Vec<_>>(), [&after]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_generation_is_refused_until_it_is_settled() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let before = append_one(&instance.log, &key, 1).await;
    let partition = event_log::partition_of(&key, 64);
    server.command(&["SET", &format!("realtime:{{p{partition:02}}}:meta"), "00000000 1 400"]);
    let after = append_one(&instance.log, &key, 2).await;
    assert_ne!(before.epoch, after.epoch);
    assert!(!after.epoch.starts_with("00000000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_refuses_and_recovers() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    append_one(&instance.log, &key, 1).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = soon("an answer", instance.log.append(vec![unique(&key, 2)])).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(append_one(&instance.log, &key, 3).await.offset, 2);
    // The first may have gone, to make room.
    assert_eq!(payloads(&whole(&instance.log, &key).await).last().map(String::as_str), Some("{\"n\":3}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_and_repeats_are_recognized_when_it_is_back() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    append_one(&instance.log, &key, 1).await;
    server.kill();
    let keyed = || entry(&key, "one", "{}", Identity::Keyed { producer: "client:x".into() });
    let refused = soon("an answer", instance.log.append(vec![keyed()])).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    let said = instance.log.conditions();
    assert!(said.iter().any(|condition| condition.name == "redis" && !condition.ok), "{said:?}");
    server.restart();
    let first = soon("appended", instance.log.append(vec![keyed()])).await.expect("appended").remove(0);
    let again = soon("appended", instance.log.append(vec![keyed()])).await.expect("appended").remove(0);
    assert_eq!(again, Outcome::Repeated(first.position().cloned()));
    assert_eq!(whole(&instance.log, &key).await.len(), 2);
}

/// Leases may outlive what a server lost in its last moments: after each reconnection, members are entered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_a_lease_learns_that_the_server_may_have_lost_its_members() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let store = instance.log.presence();
    let renew = async || soon("an answer", async { store.renew("i1").await }).await;
    assert_eq!(renew().await.unwrap(), Renewal::Lapsed);
    assert_eq!(renew().await.unwrap(), Renewal::Held);
    server.kill();
    server.restart();
    // The first after the crash may have been sent before it was noticed.
    let renewed = soon("a renewal", async {
        loop {
            match store.renew("i1").await {
                Ok(Renewal::Held) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(renewed) => return renewed,
            }
        }
    });
    assert_eq!(renewed.await, Renewal::Emptied);
    assert_eq!(renew().await.unwrap(), Renewal::Held, "it is told once");
}

/// A call of more than one script, of which the first failed: whatever of it was appended all the same would make the
/// repeat of what is missing look like something that the log already has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_that_was_away_missed_of_a_large_call_is_appended_when_it_is_repeated() {
    let (mut server, database) = (LocalRedis::start(Persistence::Always), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    append_one(&instance.log, &key, 0).await;
    let positioned = |lsn: u64| {
        let at = SourcePosition { lsn, ordinal: 0, mapping: MappingId::from_stored("map_1") };
        let identity = Identity::Positioned { source: "cdc:1".into(), term: 1, at };
        entry(&key, EventId::generate().as_str(), &format!("{{\"n\":{lsn}}}"), identity)
    };
    let call = || (1..=1_200).map(positioned).collect::<Vec<_>>();
    server.kill();
    let refused = soon("an answer", instance.log.append(call())).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    // What is left of the call may be under way still.
    server.restart();
    soon("appended", instance.log.append(call())).await.expect("appended");
    let expected: Vec<String> = (0..=1_200).map(|number| format!("{{\"n\":{number}}}")).collect();
    assert_eq!(payloads(&whole(&instance.log, &key).await), expected);
}
