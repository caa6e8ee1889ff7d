//! Rows become events: each once, in order, whoever dies.

use crate::{
    failing::Fate,
    harness::{Harness, scope, until},
};
use database::tables::topics::{self, NewTopic};
use serde_json::{Value, json};
use shared_types::TopicName;
use std::time::{Duration, Instant};

const TOPICS: [&str; 7] = ["order.a", "order.b", "order.c", "order.d", "order.e", "order.f", "order.g"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_row_becomes_an_event_and_a_rolled_back_one_does_not() {
    let harness = Harness::new().await;
    let service = harness.start();
    let mut tx = harness.pool().begin().await.unwrap();
    let insert = "insert into event_outbox (topic, event_type, payload) values ('order.gone', 'x', '{}')";
    sqlx::query(insert).execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    harness.write("order.placed", 1).await;
    harness.settled().await;
    let events = harness.events(&scope(), "order.placed").await;
    let event: Value = serde_json::from_str(&events[0].to_json()).unwrap();
    assert_eq!((&event["source"], &event["type"]), (&json!("database"), &json!("order.changed")));
    assert_eq!(event["payload"], json!({ "n": 1 }));
    assert_eq!(
        (&event["metadata"]["table"], &event["metadata"]["operation"]),
        (&json!("orders"), &json!("update"))
    );
    let created =
        harness.count("select (extract(epoch from created_at) * 1000)::bigint from event_outbox").await;
    assert_eq!(event["metadata"]["timestamp"], created);
    assert!(event["id"].as_str().unwrap().starts_with("evt_"));
    assert_eq!(events.len(), 1);
    assert!(harness.events(&scope(), "order.gone").await.is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_wakes_the_worker() {
    let harness = Harness::new().await;
    let service = harness.start();
    harness.write("order.placed", 0).await;
    harness.settled().await;
    // By looking once a second, each of these would take about a second.
    let started = Instant::now();
    for number in 1..=20 {
        harness.write("order.placed", number).await;
        harness.settled().await;
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(harness.numbers("order.placed").await, (0..=20).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_keep_each_topics_order() {
    let harness = Harness::new().await;
    let services = [harness.start(), harness.start(), harness.start()];
    // Each topic has one writer, whose order is the topic's; all write at once.
    let writers = TOPICS.map(|topic| {
        let pool = harness.pool().clone();
        tokio::spawn(async move {
            for number in 0..200_i64 {
                let sql = "insert into event_outbox (topic, event_type, payload)
                    values ($1, 'x', jsonb_build_object('n', $2::bigint))";
                sqlx::query(sql).bind(topic).bind(number).execute(&pool).await.unwrap();
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    harness.settled().await;
    for topic in TOPICS {
        assert_eq!(harness.numbers(topic).await, (0..200).collect::<Vec<_>>(), "{topic}");
    }
    for service in services {
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_are_killed_lose_and_repeat_nothing() {
    let harness = Harness::new().await;
    let pool = harness.pool().clone();
    let writer = tokio::spawn(async move {
        for number in 0..1_500_i64 {
            let sql = "insert into event_outbox (topic, event_type, payload)
                values ('order.' || chr(97 + ($1 % 7)::int), 'x', jsonb_build_object('n', $1::bigint))";
            sqlx::query(sql).bind(number).execute(&pool).await.unwrap();
        }
    });
    let mut services = vec![harness.start(), harness.start()];
    while !writer.is_finished() {
        tokio::time::sleep(Duration::from_millis(70)).await;
        services.remove(0).kill().await;
        services.push(harness.start());
    }
    writer.await.unwrap();
    harness.settled().await;
    for (first, topic) in TOPICS.into_iter().enumerate() {
        let wanted: Vec<i64> = (0..1_500).filter(|number| number % 7 == first as i64).collect();
        assert_eq!(harness.numbers(topic).await, wanted, "{topic}");
    }
    for service in services {
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_append_and_mark_delivers_once() {
    let harness = Harness::new().await;
    harness.write("order.placed", 1).await;
    harness.write("order.placed", 2).await;
    harness.log.set(Fate::NeverAnswered);
    let service = harness.start();
    harness.log.appended.notified().await;
    service.kill().await;
    assert_eq!(harness.numbers("order.placed").await, [1, 2]);
    assert_eq!(harness.count("select count(*) from event_outbox where processed_at is null").await, 2);

    harness.log.set(Fate::Works);
    harness.write("order.placed", 3).await;
    let service = harness.start();
    harness.settled().await;
    assert_eq!(harness.numbers("order.placed").await, [1, 2, 3]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_append_stops_its_topic_and_no_other() {
    let harness = Harness::new().await;
    harness.log.set(Fate::Refused("order.stuck".to_owned()));
    for number in 0..150 {
        harness.write("order.stuck", number).await;
    }
    let service = harness.start();
    // Whatever partitions there are, these are in all of them.
    let others: Vec<String> = (0..40).map(|number| format!("order.t{number}")).collect();
    for topic in &others {
        harness.write(topic, 1).await;
    }
    until("the others go on", async || {
        harness.count("select count(*) from event_outbox where processed_at is null").await == 150
    })
    .await;
    assert_eq!(harness.numbers("order.stuck").await, [0_i64; 0]);
    until("it is shown", async || {
        harness.count("select count(*) from outbox_status where 'app_default/development/order.stuck' = any (halted)").await == 1
    })
    .await;

    harness.log.set(Fate::Works);
    harness.settled().await;
    assert_eq!(harness.numbers("order.stuck").await, (0..150).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_nothing_left_is_no_longer_called_halted() {
    let harness = Harness::new().await;
    harness.log.set(Fate::Refused("order.stuck".to_owned()));
    harness.write("order.stuck", 1).await;
    let service = harness.start();
    let halted = "select count(*) from outbox_status where cardinality(halted) > 0";
    until("it is shown", async || harness.count(halted).await == 1).await;
    // As when another worker has gone on with it, or somebody has taken the row away.
    sqlx::query("delete from event_outbox").execute(harness.pool()).await.unwrap();
    until("it is forgotten", async || harness.count(halted).await == 0).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_an_event_becomes_a_dead_letter_once() {
    let harness = Harness::new().await;
    let insert = "insert into event_outbox (topic, event_type, payload) values
        ('order.placed', 'x', '{\"n\": 1}'), ('order.placed', 'x', '[1, 2]'), ('order.placed', 'sync.updated', '{}'),
        ('not a topic', 'x', '{}'), ('order.placed', 'x', '{\"n\": 2}')";
    sqlx::query(insert).execute(harness.pool()).await.unwrap();
    let strange = "insert into event_outbox (topic, event_type, payload, table_name, created_at) values
        ('order.placed', 'x', '{\"n\": 3}', null, 'infinity'), ('order.placed', 'x', '{\"n\": 3}', null, '-infinity'),
        ('order.placed', 'x', '{\"n\": 3}', repeat('t', 6000000), now())";
    sqlx::query(strange).execute(harness.pool()).await.unwrap();
    let counted = async || harness.metrics.render().contains("realtime_outbox_dead_letters_total 6");
    // What dies between the letter and the mark comes again. Not before all are counted: a letter that was kept as its
    // process died is counted by nobody.
    harness.log.set(Fate::NeverAnswered);
    let service = harness.start();
    harness.log.appended.notified().await;
    until("all letters are counted", counted).await;
    service.kill().await;
    harness.log.set(Fate::Works);
    let service = harness.start();
    harness.settled().await;
    assert_eq!(harness.numbers("order.placed").await, [1, 2]);
    let letters: Vec<(String, String, Value)> = sqlx::query_as(
        "select kind, reason, content from dead_letters where application_id = 'app_default'
            and environment = 'development' order by (content ->> 'outboxId')::bigint",
    )
    .fetch_all(harness.pool())
    .await
    .unwrap();
    let reasons: Vec<&str> = letters.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert_eq!(letters.len(), 6, "{reasons:?}");
    assert!(reasons[0].starts_with("payload: ") && reasons[1].starts_with("type: "), "{reasons:?}");
    assert!(reasons[2].starts_with("topic: "), "{reasons:?}");
    assert!(reasons[3].starts_with("created_at: ") && reasons[4].starts_with("created_at: "), "{reasons:?}");
    assert!(reasons[5].starts_with("table_name: "), "{reasons:?}");
    assert_eq!((&letters[0].0, &letters[0].2["payload"]), (&"outbox".to_owned(), &json!([1, 2])));
    assert!(counted().await, "none of them twice");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_log_refuses_again_and_again_is_set_aside() {
    let harness = Harness::new().await;
    harness.log.set(Fate::Broken("order.broken".to_owned()));
    harness.write("order.broken", 1).await;
    let service = harness.start();
    harness.settled().await;
    assert_eq!(
        harness.count("select count(*) from dead_letters where kind = 'outbox' and attempts = 5").await,
        1
    );
    harness.log.set(Fate::Works);
    harness.write("order.broken", 2).await;
    harness.settled().await;
    assert_eq!(harness.numbers("order.broken").await, [2]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_only_registered_topics_may_be_used_others_are_set_aside() {
    let harness = Harness::new().await;
    let policy = "update applications set config = jsonb_set(config, '{topicPolicy}', '{\"development\": \"registered\"}')";
    sqlx::query(policy).execute(harness.pool()).await.unwrap();
    let name = TopicName::parse("order.known").unwrap();
    let topic = NewTopic { name: &name, description: "d", owner: "o", history_seconds: None };
    topics::insert(harness.pool(), &scope(), &topic).await.unwrap();
    harness.write("order.known", 1).await;
    harness.write("order.unknown", 1).await;
    let service = harness.start();
    harness.settled().await;
    assert_eq!(harness.numbers("order.known").await, [1]);
    assert_eq!(
        harness.count("select count(*) from dead_letters where content ->> 'topic' = 'order.unknown'").await,
        1
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_cleaned_up_after_a_day() {
    let harness = Harness::new().await;
    for number in 0..3 {
        harness.write("order.placed", number).await;
    }
    let service = harness.start();
    harness.settled().await;
    service.stop().await;
    assert_eq!(harness.count("select count(*) from event_log_ids").await, 3);
    let age = "update event_outbox set processed_at = processed_at - interval '25 hours' where id <= 2";
    sqlx::query(age).execute(harness.pool()).await.unwrap();
    let service = harness.start();
    until("the old are gone", async || harness.count("select count(*) from event_outbox").await == 1).await;
    until("and their ids", async || harness.count("select count(*) from event_log_ids").await == 1).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_go_a_few_at_a_time_and_one_too_large_stays_where_it_is() {
    let harness = Harness::new().await;
    let sql = "insert into event_outbox (topic, event_type, payload)
        select 'order.large', 'x', jsonb_build_object('n', n, 'text', repeat('x', case when n = 9 then 2 else 1 end * 1000000))
        from generate_series(1, 18) n";
    sqlx::query(sql).execute(harness.pool()).await.unwrap();
    let service = harness.start();
    harness.settled().await;
    assert_eq!(harness.numbers("order.large").await, (1..=18).filter(|n| *n != 9).collect::<Vec<_>>());
    let reason: String =
        sqlx::query_scalar("select reason from dead_letters").fetch_one(harness.pool()).await.unwrap();
    assert!(reason.starts_with("payload: has 2000"), "{reason}");
    service.stop().await;
}
