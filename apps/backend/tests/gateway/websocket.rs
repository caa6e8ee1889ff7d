//! What only the plain WebSocket has, and the requests of the session over it.

use crate::{
    clients::plain::Plain,
    harness::{Instance, Platform, limits, soon},
    token::{Token, now_seconds, service},
};
use backend::gateway::GatewayLimits;
use event_router::OutboxLimits;
use futures::SinkExt as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::{
    Message,
    http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};

async fn subscribe(socket: &mut Plain, topic: &str, filter: Value) -> Value {
    let subscribed = socket.ask_frame(json!({ "type": "subscribe", "topic": topic, "filter": filter })).await;
    assert_eq!(subscribed["type"], "subscribed");
    subscribed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_frame_is_a_welcome() {
    let (_platform, instance) = Platform::with_instance().await;
    let expires = now_seconds() + 600;
    let token = Token::service().with("sub", "alice").with("exp", expires).sign();
    let named = Plain::open(&instance, &token).await;
    assert_eq!(
        (&named.welcome["clientId"], &named.welcome["expiresAt"]),
        (&json!("alice"), &json!(expires * 1000))
    );
    let unnamed = Plain::open(&instance, &service()).await;
    assert_eq!(unnamed.welcome["clientId"], unnamed.welcome["socketId"]);
    assert_ne!(unnamed.welcome["socketId"], named.welcome["socketId"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_token_comes_in_query_header_or_subprotocol() {
    let (_platform, instance) = Platform::with_instance().await;
    let token = service();
    let bearer = [(AUTHORIZATION, format!("Bearer {token}"))];
    assert!(Plain::request(&instance, "/ws", &bearer).await.is_ok());
    let pair = [(SEC_WEBSOCKET_PROTOCOL, format!("realtime.v1, token.{token}"))];
    let (_, headers) = Plain::request(&instance, "/ws", &pair).await.unwrap_or_else(|r| panic!("{r:?}"));
    assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "realtime.v1", "the token is not sent back");
    let wrong = [(SEC_WEBSOCKET_PROTOCOL, "realtime.v1, token.nonsense".to_owned())];
    let refused = Plain::request(&instance, "/ws", &wrong).await.err().unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (Some(401), "AUTH_FAILED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_reply_carries_the_ref_as_it_was_given() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    for reference in [json!(1), json!("text \" here"), json!(true), json!(-1.5)] {
        let mut ask = async |mut frame: Value, kind: &str| {
            frame["ref"] = reference.clone();
            let reply = socket.ask_frame(frame).await;
            assert_eq!((&reply["ref"], &reply["type"]), (&reference, &json!(kind)), "{reply}");
            reply
        };
        let subscribed = ask(json!({ "type": "subscribe", "topic": "a.c" }), "subscribed").await;
        ask(json!({ "type": "publish", "topic": "a.b", "payload": {} }), "ok").await;
        ask(json!({ "type": "history", "topic": "a.b" }), "ok").await;
        ask(json!({ "type": "unsubscribe", "subscriptionId": subscribed["subscriptionId"] }), "ok").await;
        ask(json!({ "type": "ping" }), "pong").await;
        ask(json!({ "type": "auth:refresh", "token": service() }), "ok").await;
        ask(json!({ "type": "subscribe" }), "error").await;
        ask(json!({ "type": "nonsense" }), "error").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unsubscribing_ends_delivery() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    let id = subscribe(&mut socket, "a.b", json!({})).await["subscriptionId"].clone();
    instance.publish("a.b", json!({ "n": 1 })).await;
    assert_eq!(socket.frame().await.unwrap()["data"]["payload"]["n"], 1);
    let done = socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": id, "ref": 1 })).await;
    assert_eq!(done, json!({ "type": "ok", "ref": 1 }));
    instance.publish("a.b", json!({ "n": 2 })).await;
    subscribe(&mut socket, "a.b", json!({})).await;
    instance.publish("a.b", json!({ "n": 3 })).await;
    assert_eq!(socket.frame().await.unwrap()["data"]["payload"]["n"], 3);
    let again = socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": id })).await;
    assert_eq!(again["code"], "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_subscription_that_is_asked_for_again_stays_one() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    let first = subscribe(&mut socket, "a.b", json!({})).await;
    let id = first["subscriptionId"].clone();
    instance.publish("a.b", json!({ "n": 1 })).await;
    assert_eq!(socket.frame().await.unwrap()["data"]["payload"]["n"], 1);
    let since = json!({ "epoch": first["epoch"], "offset": first["offset"] });
    let again = json!({ "type": "subscribe", "topic": "a.b", "subscriptionId": id, "since": since });
    let again = socket.ask_frame(again).await;
    assert_eq!((&again["type"], &again["subscriptionId"]), (&json!("subscribed"), &id));
    assert_eq!(again["events"][0]["payload"]["n"], 1);
    instance.publish("a.b", json!({ "n": 2 })).await;
    let event = socket.frame().await.unwrap();
    assert_eq!(event["data"]["payload"]["n"], 2);
    assert!(event.get("subscriptionIds").is_none(), "the connection has only one: {event}");
    socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": id })).await;
    instance.publish("a.b", json!({ "n": 3 })).await;
    assert_eq!(socket.ask_frame(json!({ "type": "ping" })).await["type"], "pong");
    let other = json!({ "type": "subscribe", "topic": "a.c", "subscriptionId": id });
    assert_eq!(socket.ask_frame(other).await["code"], "VALIDATION_FAILED");
    assert_eq!(instance.metrics.subscriptions.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn several_subscriptions_on_a_topic_share_a_frame() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    let mut ids = Vec::new();
    for filter in [json!({}), json!({ "a": 1 }), json!({ "b": 1 }), json!({ "a": 1 })] {
        ids.push(subscribe(&mut socket, "a.b", filter).await["subscriptionId"].as_str().unwrap().to_owned());
    }
    for (payload, matching) in [
        (json!({ "a": 1, "b": 1 }), vec![0, 1, 2, 3]),
        (json!({ "a": 1 }), vec![0, 1, 3]),
        (json!({ "b": 1 }), vec![0, 2]),
        (json!({}), vec![0]),
    ] {
        instance.publish("a.b", payload).await;
        let frame = socket.frame().await.unwrap();
        let mut named: Vec<&str> =
            frame["subscriptionIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        let mut wanted: Vec<&str> = matching.into_iter().map(|n: usize| ids[n].as_str()).collect();
        named.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(named, wanted);
    }
    for id in &ids[1..] {
        socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": id })).await;
    }
    instance.publish("a.b", json!({ "a": 1 })).await;
    let alone = socket.frame().await.unwrap();
    assert_eq!(alone["type"], "event");
    assert!(alone.get("subscriptionIds").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_repeated_id_answers_the_first_result() {
    let platform = Platform::start().await;
    let (a, b) = (platform.instance().await, platform.instance().await);
    let alice = Token::service().with("sub", "alice").sign();
    let mut here = Plain::open(&a, &alice).await;
    let mut there = Plain::open(&b, &alice).await;
    let publish =
        |n: u64| json!({ "type": "publish", "topic": "a.b", "id": "order-1", "payload": { "n": n } });
    let first = here.ask_frame(publish(1)).await;
    assert_eq!((&first["id"], &first["offset"]), (&json!("order-1"), &json!(1)));
    assert_eq!(here.ask_frame(publish(1)).await, first);
    assert_eq!(there.ask_frame(publish(1)).await, first, "on another instance too");
    let other = there.ask_frame(publish(2)).await;
    assert_eq!((&other["code"], &other["error"]), (&json!("ID_CONFLICT"), &json!("ConflictError")));
    let elsewhere =
        here.ask_frame(json!({ "type": "publish", "topic": "a.c", "id": "order-1", "payload": {} }));
    assert_eq!(elsewhere.await["offset"], 1, "another topic, another event");
    let history = here.ask_frame(json!({ "type": "history", "topic": "a.b" })).await;
    assert_eq!(history["events"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn publishes_of_a_connection_keep_their_order() {
    let platform = Platform::start().await;
    let generous = GatewayLimits { message_burst: 10_000, ..limits() };
    let instance = platform.instance_with(generous).await;
    let mut receiver = Plain::open(&instance, &service()).await;
    subscribe(&mut receiver, "a.b", json!({})).await;
    let publisher = async |name: u64| {
        let mut socket = Plain::open(&instance, &service()).await;
        for n in 0..200 {
            let payload = json!({ "by": name, "n": n });
            let kind = "chat.said";
            socket
                .send(json!({ "type": "publish", "topic": "a.b", "eventType": kind, "payload": payload, "ref": n }))
                .await;
        }
        let mut answered: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let reply = socket.frame().await.unwrap();
            assert_eq!(reply["type"], "ok");
            answered.push(reply["ref"].as_u64().unwrap());
        }
        answered.sort_unstable();
        assert_eq!(answered, (0..200).collect::<Vec<_>>(), "each is answered once");
    };
    tokio::join!(publisher(0), publisher(1), publisher(2));
    let mut next = [0; 3];
    for offset in 1..=600 {
        let event = receiver.frame().await.unwrap()["data"].clone();
        assert_eq!((&event["metadata"]["offset"], &event["type"]), (&json!(offset), &json!("chat.said")));
        let by = event["payload"]["by"].as_u64().unwrap() as usize;
        assert_eq!(event["payload"]["n"], next[by]);
        next[by] += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn history_answers_a_page() {
    let (_platform, instance) = Platform::with_instance().await;
    instance.publish_numbers("a.b", 1..=60).await;
    let mut socket = Plain::open(&instance, &Token::of(&["history"]).sign()).await;
    let mut history = async |fields: Value| {
        let mut frame = json!({ "type": "history", "topic": "a.b" });
        frame.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let page = socket.ask_frame(frame).await;
        let events = page["events"].as_array().unwrap().iter();
        let numbers: Vec<u64> = events.map(|event| event["payload"]["n"].as_u64().unwrap()).collect();
        (numbers, page)
    };
    let (latest, page) = history(json!({})).await;
    assert_eq!((latest, page["offset"].clone()), ((11..=60).collect(), json!(60)));
    let epoch = page["epoch"].clone();
    let since = |offset: u64| json!({ "epoch": epoch, "offset": offset });
    let (first, page) = history(json!({ "since": since(0), "limit": 7 })).await;
    assert_eq!((first, page["offset"].clone()), ((1..=7).collect(), json!(7)));
    assert_eq!(history(json!({ "since": since(58) })).await.0, [59, 60]);
    let (none, page) = history(json!({ "since": since(60) })).await;
    assert_eq!((none.len(), &page["offset"], page.get("recovered")), (0, &json!(60), None));
    let (_, page) = history(json!({ "since": since(61) })).await;
    assert_eq!(page["recovered"], false);
    let (_, page) = history(json!({ "since": { "epoch": "another", "offset": 1 } })).await;
    assert_eq!(page["recovered"], false);
    let (empty, page) = history(json!({ "topic": "never.used" })).await;
    assert_eq!((empty.len(), &page["offset"]), (0, &json!(0)));
    assert!(!page["epoch"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_token_replaces_the_old_one() {
    let (_platform, instance) = Platform::with_instance().await;
    let alice = Token::service().with("sub", "alice");
    let mut socket = Plain::open(&instance, &alice.sign()).await;
    let kept = subscribe(&mut socket, "chat:one", json!({})).await["subscriptionId"].clone();
    let ended = subscribe(&mut socket, "order.placed", json!({})).await["subscriptionId"].clone();
    let mut refresh = async |token: &Token| {
        socket.ask_frame(json!({ "type": "auth:refresh", "token": token.sign() })).await
    };
    for other in [Token::service().with("sub", "bob"), Token::service(), alice.clone().with("env", "staging")]
    {
        let refused = refresh(&other).await;
        assert_eq!((&refused["code"], &refused["error"]), (&json!("FORBIDDEN"), &json!("ForbiddenError")));
    }
    assert_eq!(refresh(&alice.clone().expires_in(-1)).await["code"], "TOKEN_EXPIRED");
    let later = now_seconds() + 7_200;
    let done = refresh(&alice.clone().with("exp", later)).await;
    assert_eq!((&done["type"], &done["expiresAt"]), (&json!("ok"), &json!(later * 1000)));
    let narrow = alice.with("capabilities", json!({ "chat:*": ["subscribe"] }));
    let error = refresh(&narrow).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("FORBIDDEN")));
    assert_eq!((&error["subscriptionId"], &error["topic"]), (&ended, &json!("order.placed")));
    assert_eq!(socket.frame().await.unwrap()["type"], "ok");
    instance.publish("order.placed", json!({ "n": 1 })).await;
    instance.publish("chat:one", json!({ "n": 2 })).await;
    assert_eq!(socket.frame().await.unwrap()["topic"], "chat:one");
    let refused = socket.ask_frame(json!({ "type": "publish", "topic": "chat:one", "payload": {} })).await;
    assert_eq!(refused["code"], "FORBIDDEN");
    assert_eq!(
        socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": kept })).await["type"],
        "ok"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn too_many_messages_are_refused_and_in_the_end_close_the_connection() {
    let platform = Platform::start().await;
    let tight = GatewayLimits { messages_per_second: 10, message_burst: 20, ..limits() };
    let instance = platform.instance_with(tight).await;
    let mut socket = Plain::open(&instance, &service()).await;
    for n in 0..40 {
        socket.send(json!({ "type": "ping", "ref": n })).await;
    }
    let (mut pongs, mut refused) = (0, 0);
    for n in 0..40 {
        let reply = socket.frame().await.unwrap();
        assert_eq!(reply["ref"], n, "each is answered, in order");
        match reply["type"].as_str().unwrap() {
            "pong" => pongs += 1,
            _ => {
                assert_eq!(
                    (&reply["code"], &reply["error"]),
                    (&json!("LIMIT_EXCEEDED"), &json!("RateLimitError"))
                );
                refused += 1;
            }
        }
    }
    assert!(pongs >= 20 && refused > 0, "a burst of 20 is allowed: {pongs} and {refused}");
    let code = soon("the close", keep_pinging(&mut socket)).await;
    assert_eq!(code, 1013);
}

/// Sends a ping every 20 ms until the server closes; answers the code.
async fn keep_pinging(socket: &mut Plain) -> u16 {
    let begun = Instant::now();
    loop {
        socket.send(json!({ "type": "ping" })).await;
        if let Err(code) = socket.frame().await {
            assert!(begun.elapsed() > Duration::from_secs(3), "only after 5 s over the rate");
            return code;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_epoch_is_told_at_once_as_a_gap() {
    let platform = Platform::start().await;
    let first: Instance = platform.instance().await;
    let mut socket = Plain::open(&first, &service()).await;
    first.publish_numbers("a.b", 0..3).await;
    let subscribed = subscribe(&mut socket, "a.b", json!({})).await;
    platform.forget_topic("a.b").await;
    let second = platform.instance().await;
    let position = second.publish("a.b", json!({ "n": 7 })).await;
    let gap = socket.frame().await.unwrap();
    assert_eq!((&gap["type"], &gap["gap"]), (&json!("position"), &json!(true)));
    assert_eq!(gap["subscriptionId"], subscribed["subscriptionId"]);
    assert_eq!((&gap["topic"], &gap["epoch"]), (&json!("a.b"), &json!(&*position.epoch)));
    assert_ne!(gap["epoch"], subscribed["epoch"]);
    assert_eq!(socket.frame().await.unwrap()["data"]["payload"]["n"], 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_that_pauses_gets_every_frame_whole() {
    const EVENTS: u64 = 300;
    let platform = Platform::start().await;
    let outbox = OutboxLimits { bytes: 64 << 20, messages: 16_384 };
    let instance = platform.instance_with(GatewayLimits { outbox, ..limits() }).await;
    let mut client = Plain::open(&instance, &service()).await;
    client.ask_frame(json!({ "type": "subscribe", "topic": "big.events" })).await;
    // More than the kernel keeps for a connection, so that frames are written in pieces, with pongs between them.
    let filling = "x".repeat(48 << 10);
    for n in 0..EVENTS {
        instance.publish("big.events", json!({ "n": n, "filling": filling })).await;
        if n % 10 == 0 {
            client.socket.send(Message::Ping(n.to_string().into())).await.unwrap();
        }
    }
    for n in 0..EVENTS {
        let frame = client.frame().await.unwrap();
        assert_eq!(frame["data"]["payload"]["n"], n);
        assert_eq!(frame["data"]["payload"]["filling"], filling);
    }
    client.send(json!({ "type": "ping" })).await;
    assert_eq!(client.frame().await.unwrap()["type"], "pong", "and it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_no_handshake_is_answered_by_the_rule_it_breaks() {
    let (_platform, instance) = Platform::with_instance().await;
    let handshake = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let url = instance.url(&format!("/ws?token={}", service()));
    for (name, value, rule) in [
        ("connection", "close", "Connection: Upgrade"),
        ("upgrade", "h2c", "Upgrade: websocket"),
        ("sec-websocket-version", "8", "version 13"),
        ("sec-websocket-key", "", "Sec-WebSocket-Key"),
    ] {
        let mut request = reqwest::Client::new().get(&url);
        for (header, right) in handshake {
            let given = if header == name { value } else { right };
            if !given.is_empty() {
                request = request.header(header, given);
            }
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400, "{name}");
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(body["code"], "NOT_A_WEBSOCKET", "{name}");
        assert!(body["message"].as_str().unwrap().contains(rule), "{name}: {body}");
    }
}
