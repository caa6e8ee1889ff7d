//! What is kept how long, and what happens at the limits.

use crate::harness::{Instance, append_one, entry, key, payloads, soon, unique, whole};
use event_log::{EventLog as _, Identity, LogError, Outcome, SourcePosition, TopicKey};
use redis_layer::{HistoryLimit, RedisSettings};
use shared_types::MappingId;
use std::time::Duration;
use testkit::{LocalRedis, Persistence};

const LOOK: Duration = Duration::from_millis(50);

async fn append_many(instance: &Instance, key: &TopicKey, count: u64) {
    let entries = (0..count).map(|number| unique(key, number)).collect();
    soon("appended", instance.log.append(entries)).await.expect("appended");
}

/// Waits until `holds`, which upkeep brings about.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_bounded_in_events_and_bytes() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let history_limit = HistoryLimit { events: 1_000, bytes: 200_000 };
    let settings = RedisSettings { history_limit, ..RedisSettings::new(server.url()) };
    let instance = Instance::start(settings, &database);
    let (many, large) = (key("many.small"), key("few.large"));
    append_many(&instance, &many, 3_000).await;
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(10_000));
    let entries = (0..100).map(|number| entry(&large, &format!("evt_{number}"), &text, Identity::Unique));
    instance.log.append(entries.collect()).await.expect("appended");
    until("the small ones are trimmed", async || whole(&instance.log, &many).await.len() <= 1_000).await;
    until("the large ones are trimmed", async || whole(&instance.log, &large).await.len() <= 20).await;
    let kept = whole(&instance.log, &large).await;
    assert_eq!(kept.last().map(|event| event.position.offset), Some(100), "the newest stay");
    assert!(kept.len() > 5, "no more goes than must: {}", kept.len());
    assert!(whole(&instance.log, &many).await.len() > 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_bounded_by_age_and_its_position_outlives_it() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let history_limit = HistoryLimit { events: 100, bytes: 1 << 20 };
    let history = Duration::from_secs(2);
    let settings = RedisSettings { history, history_limit, ..RedisSettings::new(server.url()) };
    let instance = Instance::start(settings, &database);
    let key = key("order.updated");
    append_many(&instance, &key, 50).await;
    tokio::time::sleep(history).await;
    append_many(&instance, &key, 10).await;
    until("the old ones are gone", async || whole(&instance.log, &key).await.len() == 10).await;
    let head = instance.log.head(&key).await.expect("head");
    assert_eq!(head.offset, 60);
    let lifetime = |name: &str| {
        let found = server.command(&[
            "PTTL",
            &format!(
                "realtime:{{p{:02}}}:{name}:app_a:development:order.updated",
                event_log::partition_of(&key, 64)
            ),
        ]);
        found[0].parse::<i64>().expect("a number")
    };
    assert!((1..=122_000).contains(&lifetime("history")));
    assert!(lifetime("head") > 23 * 3_600_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_topic_keeps_its_own_history() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    sqlx::query("insert into applications (id, name) values ('app_a', 'a') on conflict do nothing")
        .execute(&database.pool)
        .await
        .expect("an application");
    sqlx::query("insert into environments (application_id, environment) values ('app_a', 'development') on conflict do nothing")
        .execute(&database.pool)
        .await
        .expect("its environment");
    sqlx::query(
        "insert into topics (application_id, environment, name, description, owner, history_seconds) \
         values ('app_a', 'development', 'order.long', '', '', 86400)",
    )
    .execute(&database.pool)
    .await
    .expect("a topic");
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.long");
    let partition = event_log::partition_of(&key, 64);
    let name = format!("realtime:{{p{partition:02}}}:history:app_a:development:order.long");
    let head = format!("realtime:{{p{partition:02}}}:head:app_a:development:order.long");
    // The registry is read in the first round of upkeep; from then on a process's first append says the lifetime.
    until("the registry is read", async || {
        let other = Instance::start(RedisSettings::new(server.url()), &database);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        append_one(&other.log, &key, 1).await;
        other.stop().await;
        server.command(&["PTTL", &name])[0].parse::<i64>().expect("a number") > 80_000_000
    })
    .await;
    assert!(server.command(&["PTTL", &head])[0].parse::<i64>().expect("a number") > 170_000_000);
    append_one(&instance.log, &key, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_meant_to_stays_for_ever() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let keyed = entry(&key, "one", "{}", Identity::Keyed { producer: "client:x".into() });
    instance.log.append(vec![keyed, unique(&key, 1)]).await.expect("appended");
    instance.log.side_effects("webhooks").await.expect("group");
    for name in server.command(&["KEYS", "*"]) {
        let lasting = [":meta", ":groups", ":side-effects", ":sources"].iter().any(|end| name.ends_with(end));
        let lifetime: i64 = server.command(&["PTTL", &name])[0].parse().expect("a number");
        assert_eq!(lifetime == -1, lasting, "{name}");
        assert!(name.starts_with("realtime:{p"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_memory_shortens_histories() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    append_many(&instance, &key, 20_000).await;
    let stream = format!("realtime:{{p{:02}}}:side-effects", event_log::partition_of(&key, 64));
    until("what nobody reads is gone", async || {
        server.command(&["XLEN", &stream])[0].parse::<u64>().expect("a number") < 1_000
    })
    .await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let used = server.command(&["INFO", "memory"]).join("\n");
    let used: u64 = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .expect("memory")
        .trim()
        .parse()
        .expect("a number");
    server.command(&["CONFIG", "SET", "maxmemory", &(used + used / 10).to_string()]);
    until("events go early", async || instance.metrics.log_history_shortened.get() > 0).await;
    assert!(whole(&instance.log, &key).await.len() < 20_000);
    append_one(&instance.log, &key, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn side_effects_stay_behind_the_slowest_group_and_a_full_backlog_refuses() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let settings = RedisSettings { backlog_bytes: 300_000, ..RedisSettings::new(server.url()) };
    let instance = Instance::start(settings, &database);
    let key = key("order.updated");
    let partition = event_log::partition_of(&key, 64);
    let stream = format!("realtime:{{p{partition:02}}}:side-effects");
    let length = || server.command(&["XLEN", &stream])[0].parse::<u64>().expect("a number");
    let slow = instance.log.side_effects("webhooks").await.expect("group");
    let fast = instance.log.side_effects("traces").await.expect("group");
    append_many(&instance, &key, 2_000).await;
    let read = fast.read(partition, 5_000).await.expect("read");
    fast.acknowledge(partition, read[1_999].sequence).await.expect("acknowledged");
    until("appends are refused", async || {
        let refused = instance.log.append(vec![unique(&key, 1)]).await;
        matches!(refused, Err(LogError::BacklogFull))
    })
    .await;
    assert!(instance.metrics.log_backlog_ratio.get() > 0.9);
    assert!(length() >= 2_000, "nothing goes that one group has not read");
    let read = slow.read(partition, 5_000).await.expect("read");
    assert!(read.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
    for group in [slow, fast] {
        group.acknowledge(partition, read.last().expect("entries").sequence).await.expect("acknowledged");
    }
    until("appends are taken again", async || instance.log.append(vec![unique(&key, 1)]).await.is_ok()).await;
    assert!(length() < 200, "{}", length());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_many_events_over_many_topics_keeps_its_order() {
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let topics: Vec<TopicKey> = (0..30).map(|number| key(&format!("topic.{number}"))).collect();
    let keyed = |number: u64| {
        let identity = Identity::Keyed { producer: "client:x".into() };
        let topic = &topics[(number % 30) as usize];
        entry(topic, &format!("id_{number}"), &format!("{{\"n\":{number}}}"), identity)
    };
    let entries = || (0..6_000).map(keyed).collect::<Vec<_>>();
    let outcomes = soon("appended", instance.log.append(entries())).await.expect("appended");
    for (number, outcome) in outcomes.iter().enumerate() {
        let position = outcome.position().expect("a position");
        assert_eq!(position.offset, number as u64 / 30 + 1);
    }
    let again = soon("recognized", instance.log.append(entries())).await.expect("recognized");
    let repeated = outcomes.iter().map(|outcome| Outcome::Repeated(outcome.position().cloned()));
    assert_eq!(again, repeated.collect::<Vec<_>>());
    let expected: Vec<String> = (0..200).map(|n| format!("{{\"n\":{}}}", n * 30 + 7)).collect();
    assert_eq!(payloads(&whole(&instance.log, &topics[7]).await), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_source_has_appended_is_recognized_for_a_day() {
    const SOURCES: [&str; 3] = ["7:1:slot", "backfill:late", "backfill:old"];
    let (server, database) = (LocalRedis::start(Persistence::Nothing), testkit::database().await);
    let instance = Instance::start(RedisSettings::new(server.url()), &database);
    let key = key("order.updated");
    let append = async |source: &str| {
        let at = SourcePosition { lsn: 1, ordinal: 0, mapping: MappingId::from_stored("map_1") };
        let identity = Identity::Positioned { source: source.into(), term: 1, at };
        soon("appended", instance.log.append(vec![entry(&key, source, "{}", identity)]))
            .await
            .expect("answered")
    };
    for source in SOURCES {
        assert!(matches!(append(source).await[..], [Outcome::Appended(_)]));
    }
    let known = || {
        let sources = format!("realtime:{{p{:02}}}:sources", event_log::partition_of(&key, 64));
        let mut known = server.command(&["HKEYS", &sources]);
        known.sort();
        known
    };
    let run = async |sql: &'static str| {
        sqlx::raw_sql(sql).execute(&database.pool).await.expect(sql);
    };
    run("insert into cdc_spills (system_identifier, slot, term, events) values ('7', 'slot', 1, 1)").await;
    run("insert into event_log_ended_sources values ('backfill:old', now() - interval '25 hours'), \
         ('backfill:late', now() - interval '23 hours')")
    .await;
    // It is looked for them every five seconds.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(known(), SOURCES, "what is spilled may be of one that ended");
    run("update cdc_spills set events = 0").await;
    until("one is forgotten", async || known() == SOURCES[..2]).await;
    let ended = async || -> Vec<String> {
        let sql = "select source from event_log_ended_sources";
        sqlx::query_scalar(sql).fetch_all(&database.pool).await.expect("ended")
    };
    until("it is done", async || ended().await == ["backfill:late"]).await;
    for source in &SOURCES[..2] {
        let outcomes = append(source).await;
        assert!(matches!(outcomes[..], [Outcome::Repeated(None)]), "{outcomes:?}");
    }
    assert!(matches!(append(SOURCES[2]).await[..], [Outcome::Appended(_)]));
}
