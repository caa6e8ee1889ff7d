//! What only Socket.IO has: acknowledgements, namespaces, packets.

use crate::{
    clients::{
        End, Link as _, Said,
        socketio::{Packets, SocketIo, connect_packet},
    },
    harness::Platform,
    token::service,
};
use futures::SinkExt as _;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;

async fn named(socket: &mut SocketIo) -> (String, Value) {
    match socket.hear().await {
        Said::Named(name, body) => (name, body),
        other => panic!("a named message: {other:?}"),
    }
}

async fn answered(socket: &mut SocketIo) -> (u64, Result<Value, Value>) {
    match socket.hear().await {
        Said::Answer { to, result } => (to, result),
        other => panic!("an answer: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_are_acknowledged_with_ok_and_the_result() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    socket.ask(7, "subscribe", json!({ "topic": "a.b" })).await;
    let (to, subscribed) = answered(&mut socket).await;
    let subscribed = subscribed.unwrap();
    assert_eq!((to, &subscribed["topic"], &subscribed["events"]), (7, &json!("a.b"), &json!([])));
    socket.ask(8, "publish", json!({ "topic": "a.c", "type": "said", "payload": {} })).await;
    let (to, published) = answered(&mut socket).await;
    assert_eq!((to, &published.unwrap()["offset"]), (8, &json!(1)));
    socket.ask(9, "history", json!({ "topic": "a.c" })).await;
    assert_eq!(answered(&mut socket).await.1.unwrap()["events"][0]["type"], "said");
    socket.ask(10, "unsubscribe", json!({ "subscriptionId": subscribed["subscriptionId"] })).await;
    assert_eq!(answered(&mut socket).await, (10, Ok(json!({}))));
    socket.ask(11, "auth:refresh", json!({ "token": service() })).await;
    assert!(answered(&mut socket).await.1.unwrap()["expiresAt"].is_i64());
    socket.ask(12, "subscribe", json!({ "topic": 5 })).await;
    let (to, refused) = answered(&mut socket).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (to, &refused["error"], &refused["code"]),
        (12, &json!("ValidationError"), &json!("VALIDATION_FAILED"))
    );
    assert!(refused["message"].as_str().unwrap().starts_with("topic"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_acknowledgement_results_and_failures_are_emitted() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    socket.emit("subscribe", json!({ "topic": "a.b" })).await;
    let (name, subscribed) = named(&mut socket).await;
    assert_eq!((name.as_str(), &subscribed["topic"]), ("subscribed", &json!("a.b")));
    for (event, payload, code) in [
        ("subscribe", json!({}), "VALIDATION_FAILED"),
        ("subscribe", json!("text"), "INVALID_JSON"),
        ("nonsense", json!({}), "UNKNOWN_MESSAGE"),
        ("publish", json!({ "topic": "a.b", "payload": 1 }), "INVALID_PAYLOAD"),
        ("publish", json!({ "topic": "a.b", "eventType": "x", "payload": {} }), "VALIDATION_FAILED"),
        ("unsubscribe", json!({ "subscriptionId": "sub_none" }), "NOT_FOUND"),
    ] {
        socket.emit(event, payload).await;
        let (name, error) = named(&mut socket).await;
        assert_eq!((name.as_str(), &error["ok"], &error["code"]), ("error", &json!(false), &json!(code)));
    }
    socket.packets.send(r#"42["subscribe",{"topic":"a.b"},{"second":1}]"#).await;
    assert_eq!(named(&mut socket).await.1["code"], "VALIDATION_FAILED");
    // Nothing is emitted for a publish that was done: what comes next is its event.
    socket.emit("publish", json!({ "topic": "a.b", "payload": { "n": 1 } })).await;
    match socket.hear().await {
        Said::Event { event, subscriptions: None } => assert_eq!(event["payload"]["n"], 1),
        other => panic!("the event: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn subscriptions_that_matched_are_the_second_argument() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    for number in 1..=2 {
        socket.ask(number, "subscribe", json!({ "topic": "a.b" })).await;
        answered(&mut socket).await.1.unwrap();
    }
    instance.publish("a.b", json!({ "n": 1 })).await;
    match socket.hear().await {
        Said::Event { subscriptions: Some(ids), .. } => assert_eq!(ids.as_array().unwrap().len(), 2),
        other => panic!("one event for both: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_token_comes_in_auth_query_or_header() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut packets = Packets::open(&instance, &format!("&token={}", service())).await;
    packets.packet().await;
    packets.send("40").await;
    assert!(packets.packet().await.starts_with("40{"));
    // What auth says goes first.
    let mut packets = Packets::open(&instance, &format!("&token={}", service())).await;
    packets.packet().await;
    packets.send(&connect_packet(Some("nonsense"))).await;
    assert!(packets.packet().await.starts_with("44{\"message\":\"AUTH_FAILED: "));
    // Whoever was refused may try again on the same connection.
    packets.send(&connect_packet(Some(&service()))).await;
    assert!(packets.packet().await.starts_with("40{"));
    for auth in ["5", "[]", r#"{"token":5}"#] {
        let mut packets = Packets::open(&instance, "").await;
        packets.packet().await;
        packets.send(&format!("40{auth}")).await;
        assert!(packets.packet().await.starts_with("44{\"message\":\"AUTH_FAILED: "), "{auth}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_namespace_is_refused_by_its_name() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut packets = Packets::open(&instance, "").await;
    packets.packet().await;
    packets.send(&format!("40/admin,{}", json!({ "token": service() }))).await;
    let refused = packets.packet().await;
    let body: Value =
        serde_json::from_str(refused.strip_prefix("44/admin,").unwrap_or_else(|| panic!("{refused}")))
            .unwrap();
    assert!(body["message"].as_str().unwrap().starts_with("INVALID_NAMESPACE: "));
    assert_eq!(body["data"]["code"], "INVALID_NAMESPACE");
    packets.send(&connect_packet(Some(&service()))).await;
    assert!(packets.packet().await.starts_with("40{"), "the main namespace is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_cannot_be_tried_one_after_the_other() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut packets = Packets::open(&instance, "").await;
    packets.packet().await;
    for _ in 0..3 {
        packets.send(&connect_packet(Some("a guess"))).await;
        assert!(packets.packet().await.starts_with("44{"));
    }
    assert!(packets.packet().await.contains("PROTOCOL_VIOLATION"));
    assert_eq!((packets.next().await.as_deref(), packets.next().await), (Some("41"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn three_malformed_packets_in_a_row_end_the_connection() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    for packet in ["4", "42{}"] {
        socket.packets.send(packet).await;
        assert_eq!(named(&mut socket).await.1["code"], "INVALID_PACKET", "{packet}");
    }
    socket.ask(1, "ping", json!({})).await;
    assert_eq!(answered(&mut socket).await, (1, Ok(json!({}))));
    socket.packets.send("9").await;
    assert_eq!(named(&mut socket).await.1["code"], "INVALID_PACKET");
    socket.packets.0.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(named(&mut socket).await.1["code"], "BINARY_NOT_SUPPORTED");
    socket.packets.send("45-").await;
    assert_eq!(named(&mut socket).await.1["code"], "INVALID_PACKET");
    assert_eq!(named(&mut socket).await.1["code"], "PROTOCOL_VIOLATION");
    match socket.hear().await {
        Said::End(End::Disconnected(code)) => assert_eq!(code.as_deref(), Some("PROTOCOL_VIOLATION")),
        other => panic!("the disconnect: {other:?}"),
    }
    assert_eq!(socket.packets.next().await, None);
}

/// The text packet of an event whose payload holds `attachments` buffers, with the ack's number before its arguments.
fn with_attachments(attachments: usize, ack: &str) -> String {
    let buffers: Vec<Value> =
        (0..attachments).map(|num| json!({ "_placeholder": true, "num": num })).collect();
    let arguments = json!(["publish", { "topic": "a.b", "payload": { "buffers": buffers } }]);
    format!("45{attachments}-{ack}{arguments}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_with_attachments_are_refused_and_the_connection_goes_on() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    let buffer = || Message::binary(vec![7; 1000]);
    for number in 1..=4 {
        socket.packets.send(&with_attachments(2, &number.to_string())).await;
        let (to, refused) = answered(&mut socket).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (to, &refused["error"], &refused["code"]),
            (number, &json!("ValidationError"), &json!("BINARY_NOT_SUPPORTED"))
        );
        assert!(refused["message"].as_str().unwrap().contains("base64"), "{refused}");
        socket.packets.0.send(buffer()).await.unwrap();
        // An answer to a ping of the transport may come between the attachments.
        socket.packets.send("3").await;
        socket.packets.0.send(buffer()).await.unwrap();
    }
    socket.packets.send(&with_attachments(1, "")).await;
    socket.packets.0.send(buffer()).await.unwrap();
    let (name, refused) = named(&mut socket).await;
    assert_eq!((name.as_str(), &refused["code"]), ("error", &json!("BINARY_NOT_SUPPORTED")));
    // Nothing was answered to the attachments, and nothing of the messages was published.
    socket.ask(9, "publish", json!({ "topic": "a.b", "payload": {} })).await;
    let (to, published) = answered(&mut socket).await;
    assert_eq!((to, &published.unwrap()["offset"]), (9, &json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn attachments_that_were_not_announced_are_malformed() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    // More are announced than come: the next message ends the wait for them.
    socket.packets.send(&with_attachments(999, "1")).await;
    assert!(answered(&mut socket).await.1.is_err());
    socket.ask(2, "ping", json!({})).await;
    assert_eq!(answered(&mut socket).await, (2, Ok(json!({}))));
    for _ in 0..3 {
        socket.packets.0.send(Message::binary(vec![1])).await.unwrap();
        assert_eq!(named(&mut socket).await.1["code"], "BINARY_NOT_SUPPORTED");
    }
    assert_eq!(named(&mut socket).await.1["code"], "PROTOCOL_VIOLATION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn attachments_count_against_the_rate() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    socket.packets.send(&with_attachments(400, "1")).await;
    for _ in 0..400 {
        socket.packets.0.feed(Message::binary(Vec::new())).await.unwrap();
    }
    socket.packets.0.flush().await.unwrap();
    assert!(answered(&mut socket).await.1.is_err());
    assert_eq!(named(&mut socket).await.1["code"], "LIMIT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_over_the_limit_is_answered() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = SocketIo::open(&instance, &service()).await;
    let payload = |bytes| json!({ "topic": "a.b", "payload": { "x": "y".repeat(bytes) } });
    socket.ask(1, "publish", payload(65_000)).await;
    assert!(answered(&mut socket).await.1.is_ok());
    socket.ask(2, "publish", payload(65_520)).await;
    let refused = answered(&mut socket).await.1.unwrap_err();
    assert_eq!(
        (&refused["code"], &refused["error"]),
        (&json!("LIMIT_EXCEEDED"), &json!("PayloadTooLargeError"))
    );
    socket.ask(3, "publish", payload(80_000)).await;
    assert_eq!(named(&mut socket).await.1["code"], "LIMIT_EXCEEDED");
    assert_eq!(named(&mut socket).await.1["code"], "PROTOCOL_VIOLATION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_speaks_before_connecting_or_says_goodbye_is_gone() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut packets = Packets::open(&instance, "").await;
    packets.packet().await;
    packets.send(r#"42["subscribe",{"topic":"a.b"}]"#).await;
    assert!(packets.packet().await.contains("PROTOCOL_VIOLATION"));
    assert_eq!(packets.packet().await, "41");
    assert_eq!(packets.next().await, None);
    for goodbye in ["41", "1"] {
        let mut socket = SocketIo::open(&instance, &service()).await;
        socket.packets.send(goodbye).await;
        assert_eq!(socket.packets.next().await, None, "{goodbye}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_has_not_connected_yet_is_told_when_the_server_stops() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut packets = Packets::open(&instance, "").await;
    packets.packet().await;
    let told = async { assert_eq!(packets.next().await, None) };
    tokio::join!(instance.gateway.drain(Duration::from_secs(10)), told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unknown_protocol_is_refused_as_its_clients_expect() {
    let (_platform, instance) = Platform::with_instance().await;
    for (query, code) in [
        ("EIO=3&transport=polling", 5),
        ("transport=polling", 5),
        ("EIO=4", 0),
        ("EIO=4&transport=pigeon", 0),
        ("EIO=4&transport=polling&sid=unknown", 1),
        ("EIO=4&transport=websocket", 3),
    ] {
        let response = reqwest::get(instance.url(&format!("/socket.io/?{query}"))).await.unwrap();
        assert_eq!(response.status(), 400, "{query}");
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(body["code"], code, "{query}");
    }
}
