//! What is true of every transport: delivery, filters, tenants, recovery, and who is let in.

use crate::{
    clients::Subscriber,
    clients::{Client, Place, Wish, number, plain::Plain, polling::Polling, socketio::SocketIo, sse},
    harness::{Platform, default_scope, soon},
    token::{Token, service},
};
use serde_json::json;
use shared_types::{AppId, Environment, Scope};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Runs each of the functions of a module over every transport.
macro_rules! over_all_transports {
    ($($test:ident)*) => {
        mod plain_websocket { $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)] async fn $test() { super::$test::<super::Subscriber<super::Plain>>().await })* }
        mod socketio_websocket { $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)] async fn $test() { super::$test::<super::Subscriber<super::SocketIo>>().await })* }
        mod socketio_polling { $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)] async fn $test() { super::$test::<super::Subscriber<super::Polling>>().await })* }
        mod server_sent_events { $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)] async fn $test() { super::$test::<super::sse::Stream>().await })* }
    };
}
pub(crate) use over_all_transports;

over_all_transports! {
    events_come_live_and_in_order
    a_filter_lets_through_what_the_protocol_says
    tenants_hear_only_their_own
    recovery_is_exact_over_pages_and_against_live_publishing
    a_quiet_topic_recovers_with_nothing
    lost_history_is_said
    expired_history_is_said
    another_instance_delivers_and_recovers
    a_bad_token_is_refused
    a_missing_right_is_refused
}

async fn open<C: Client>(instance: &crate::harness::Instance, wish: Wish) -> C {
    match C::open(instance, Some(&service()), wish).await {
        Ok(client) => client,
        Err(refusal) => panic!("let in: {refusal:?}"),
    }
}

/// The numbers of the next `count` events.
async fn numbers<C: Client>(client: &mut C, count: usize) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        numbers.push(number(&client.next().await.unwrap()));
    }
    numbers
}

async fn events_come_live_and_in_order<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut client: C = open(&instance, Wish::new("order.placed")).await;
    assert!(!client.recovered());
    for n in 0..20 {
        instance.publish("order.placed", json!({ "n": n })).await;
    }
    instance.publish_numbers("order.placed", 20..300).await;
    for n in 0..300 {
        let event = client.next().await.unwrap();
        assert_eq!(number(&event), n);
        assert_eq!((&event["topic"], &event["type"]), (&json!("order.placed"), &json!("message")));
        assert_eq!(event["source"], "socket");
        assert!(event["id"].as_str().unwrap().starts_with("evt_"));
        assert_eq!(event["metadata"]["offset"], n + 1);
        assert!(event["metadata"]["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
    }
}

async fn a_filter_lets_through_what_the_protocol_says<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let filter = json!({ "campusId": 12, "data.status": { "in": ["open", null, 1.5, true] } });
    let mut client: C = open(&instance, Wish::new("a.b").filtered(filter)).await;
    let payloads = [
        (true, json!({ "campusId": 12, "data": { "status": "open" } })),
        (true, json!({ "campusId": 12.0, "data": { "status": null } })),
        (true, json!({ "campusId": 1.2e1, "data": { "status": 1.50 } })),
        (true, json!({ "campusId": 12, "data": { "status": true, "other": [] } })),
        (false, json!({ "campusId": 12, "data": {} })),
        (false, json!({ "campusId": 12, "data": { "status": "Open" } })),
        (false, json!({ "campusId": "12", "data": { "status": "open" } })),
        (false, json!({ "campusId": 13, "data": { "status": "open" } })),
        (false, json!({ "campusId": [12], "data": { "status": "open" } })),
        (false, json!({ "campusId": 12, "data": [{ "status": "open" }] })),
        (false, json!({ "campusId": 12, "data.status": "open" })),
        (false, json!({ "campusId": 12, "data": { "status": 1 } })),
        (false, json!({ "data": { "status": "open" } })),
    ];
    let mut wanted = Vec::new();
    for (n, (passes, payload)) in payloads.iter().enumerate() {
        let mut payload = payload.clone();
        payload["n"] = json!(n);
        instance.publish("a.b", payload).await;
        wanted.extend(passes.then_some(n as u64));
    }
    instance.publish("a.b", json!({ "campusId": 12, "data": { "status": "open" }, "n": 99 })).await;
    wanted.push(99);
    assert_eq!(numbers(&mut client, wanted.len()).await, wanted);
    let mut again: C = open(
        &instance,
        Wish::new("a.b")
            .filtered(json!({ "campusId": 12, "data.status": { "in": ["open", null, 1.5, true] } }))
            .since(from_the_start::<C>(&instance).await),
    )
    .await;
    assert!(again.recovered());
    assert_eq!(numbers(&mut again, wanted.len()).await, wanted, "recovered events pass the same filter");
}

/// The place before the first event of `a.b`.
async fn from_the_start<C: Client>(instance: &crate::harness::Instance) -> Place {
    let head = instance.publish("a.b", json!({ "n": 0 })).await;
    C::place_of("a.b", &head.epoch, 0)
}

async fn tenants_hear_only_their_own<C: Client>() {
    let platform = Platform::start().await;
    platform.add_application("app_other").await;
    let instance = platform.instance().await;
    let scope = |app: &str, environment| Scope::new(AppId::from_stored(app), environment);
    let tenants = [
        (default_scope(), Token::service()),
        (scope("app_default", Environment::Staging), Token::service().with("env", "staging")),
        (scope("app_other", Environment::Development), Token::service().with("aud", "app_other")),
    ];
    let mut clients = Vec::new();
    for (_, token) in &tenants {
        let client = C::open(&instance, Some(&token.sign()), Wish::new("shared.name")).await;
        clients.push(client.unwrap_or_else(|refusal| panic!("{refusal:?}")));
    }
    for round in 0..5 {
        for (tenant, (scope, _)) in tenants.iter().enumerate() {
            let n = tenant as u64 * 100 + round;
            instance.publish_in(scope, "shared.name", json!({ "n": n })).await;
        }
    }
    for (tenant, client) in clients.iter_mut().enumerate() {
        let own: Vec<u64> = (0..5).map(|round| tenant as u64 * 100 + round).collect();
        assert_eq!(numbers(client, 5).await, own);
    }
    // A position of one tenant's topic means nothing in another's.
    let place = clients[0].place();
    let other = tenants[2].1.sign();
    let stranger = C::open(&instance, Some(&other), Wish::new("shared.name").since(place)).await;
    assert!(!stranger.unwrap_or_else(|refusal| panic!("{refusal:?}")).recovered());
}

async fn recovery_is_exact_over_pages_and_against_live_publishing<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let instance = Arc::new(instance);
    let mut first: C = open(&instance, Wish::new("many.events")).await;
    instance.publish_numbers("many.events", 0..5).await;
    assert_eq!(numbers(&mut first, 5).await, [0, 1, 2, 3, 4]);
    let place = first.place();
    drop(first);
    for begin in (5..2_505).step_by(500) {
        instance.publish_numbers("many.events", begin..begin + 500).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let (instance, stop) = (instance.clone(), stop.clone());
        async move {
            let mut n = 2_505;
            while !stop.load(Ordering::Relaxed) || n < 3_000 {
                instance.publish_numbers("many.events", n..n + 7).await;
                n += 7;
            }
            n
        }
    });
    let mut again: C = open(&instance, Wish::new("many.events").since(place)).await;
    assert!(again.recovered());
    assert_eq!(numbers(&mut again, 2_500).await, (5..2_505).collect::<Vec<_>>());
    stop.store(true, Ordering::Relaxed);
    let end = soon("the publisher's end", publisher).await.unwrap();
    let live = numbers(&mut again, (end - 2_505) as usize).await;
    assert_eq!(live, (2_505..end).collect::<Vec<_>>());
}

async fn a_quiet_topic_recovers_with_nothing<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let first: C = open(&instance, Wish::new("quiet.topic")).await;
    let place = first.place();
    let mut again: C = open(&instance, Wish::new("quiet.topic").since(place)).await;
    assert!(again.recovered(), "the head always recovers, at offset 0 too");
    instance.publish("quiet.topic", json!({ "n": 1 })).await;
    assert_eq!(numbers(&mut again, 1).await, [1]);
    let place = again.place();
    let mut third: C = open(&instance, Wish::new("quiet.topic").since(place)).await;
    assert!(third.recovered());
    instance.publish("quiet.topic", json!({ "n": 2 })).await;
    assert_eq!(numbers(&mut third, 1).await, [2]);
}

async fn lost_history_is_said<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    instance.publish_numbers("some.topic", 0..3).await;
    let head = instance.publish("some.topic", json!({ "n": 3 })).await;
    let places = [
        C::place_of("some.topic", "anotherepoch", 2),
        C::place_of("some.topic", "anotherepoch", 4),
        C::place_of("some.topic", &head.epoch, 100),
        C::place_of("some.topic", &head.epoch, 1 << 40),
    ];
    for (round, place) in places.into_iter().enumerate() {
        let mut client: C = open(&instance, Wish::new("some.topic").since(place)).await;
        assert!(!client.recovered());
        let expected = C::place_of("some.topic", &head.epoch, head.offset + round as u64);
        assert_eq!(client.place(), expected, "it stands at the real head");
        instance.publish("some.topic", json!({ "n": 4 + round })).await;
        assert_eq!(numbers(&mut client, 1).await, [4 + round as u64], "and is live there");
    }
}

async fn expired_history_is_said<C: Client>() {
    let (platform, instance) = Platform::with_instance().await;
    instance.publish_numbers("some.topic", 0..9).await;
    let head = instance.publish("some.topic", json!({ "n": 9 })).await;
    platform.expire("some.topic", 5).await;
    let place = |offset| C::place_of("some.topic", &head.epoch, offset);
    let lost: C = open(&instance, Wish::new("some.topic").since(place(4))).await;
    assert!(!lost.recovered());
    let mut kept: C = open(&instance, Wish::new("some.topic").since(place(5))).await;
    assert!(kept.recovered());
    assert_eq!(numbers(&mut kept, 5).await, [5, 6, 7, 8, 9]);
}

async fn another_instance_delivers_and_recovers<C: Client>() {
    let platform = Platform::start().await;
    let (a, b) = (platform.instance().await, platform.instance().await);
    let mut client: C = open(&b, Wish::new("across.instances")).await;
    for n in 0..10 {
        a.publish("across.instances", json!({ "n": n })).await;
    }
    assert_eq!(numbers(&mut client, 10).await, (0..10).collect::<Vec<_>>());
    drop(client);
    for n in 10..30 {
        // B may not have read this yet when it is asked to go on behind it.
        let head = a.publish("across.instances", json!({ "n": n })).await;
        let place = C::place_of("across.instances", &head.epoch, head.offset);
        let again: C = open(&b, Wish::new("across.instances").since(place)).await;
        assert!(again.recovered());
    }
    let mut last: C = open(&b, Wish::new("across.instances")).await;
    a.publish("across.instances", json!({ "n": 30 })).await;
    assert_eq!(numbers(&mut last, 1).await, [30]);
}

async fn a_bad_token_is_refused<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let tokens = [
        (None, "AUTH_FAILED"),
        (Some("not-a-token".to_owned()), "AUTH_FAILED"),
        (Some(Token::service().sign_by("another secret altogether")), "AUTH_FAILED"),
        (Some(Token::service().with("aud", "app_nobody").sign()), "AUTH_FAILED"),
        (Some(Token::service().with("permissions", json!(["everything"])).sign()), "AUTH_FAILED"),
        (Some(Token::service().with("env", "moon").sign()), "AUTH_FAILED"),
        (Some(Token::service().expires_in(-1).sign()), "TOKEN_EXPIRED"),
    ];
    for (token, code) in tokens {
        let refused = C::open(&instance, token.as_deref(), Wish::new("a.b")).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{code}: let in with {token:?}"));
        assert_eq!(refused, C::refused(401, code), "{token:?}");
    }
}

async fn a_missing_right_is_refused<C: Client>() {
    let (_platform, instance) = Platform::with_instance().await;
    let narrowed = Token::of(&["client"]).with("capabilities", json!({ "chat:*": ["subscribe"] }));
    for (token, topic) in [
        (Token::of(&["publish"]), "a.b"),
        (Token::of(&[]), "a.b"),
        (narrowed.clone(), "chat"),
        (Token::of(&["subscribe"]), "sync.notes.updated"),
    ] {
        let refused = C::open(&instance, Some(&token.sign()), Wish::new(topic)).await.err();
        assert_eq!(refused.expect("refused"), C::refused(403, "FORBIDDEN"), "{topic}");
    }
    for (token, topic) in [(narrowed, "chat:room"), (Token::of(&["client"]), "sync.notes.updated")] {
        assert!(C::open(&instance, Some(&token.sign()), Wish::new(topic)).await.is_ok(), "{topic}");
    }
}
