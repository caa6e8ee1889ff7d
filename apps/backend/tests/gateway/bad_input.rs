//! Bad messages over a plain WebSocket: each is answered by a clear error, and only malformed frames in a row end
//! the connection.

use crate::{
    clients::plain::Plain,
    harness::{Platform, limits},
    token::{Token, service},
};
use backend::gateway::GatewayLimits;
use futures::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// A frame, and the code and the path or text that its answer names.
type Case = (Value, &'static str, &'static str);

fn wrong_shapes() -> Vec<Case> {
    let since = |since: Value| json!({ "type": "subscribe", "topic": "a.b", "since": since });
    vec![
        (json!({ "type": "subscribe" }), "VALIDATION_FAILED", "topic"),
        (json!({ "type": "subscribe", "topic": 5 }), "VALIDATION_FAILED", "topic"),
        (json!({ "type": "subscribe", "topic": null }), "VALIDATION_FAILED", "topic"),
        (json!({ "type": "subscribe", "topic": "" }), "INVALID_TOPIC", "topic"),
        (json!({ "type": "subscribe", "topic": "a b" }), "INVALID_TOPIC", "topic"),
        (json!({ "type": "subscribe", "topic": "a\u{0}b" }), "INVALID_TEXT", "topic"),
        (json!({ "type": "subscribe", "topic": "a".repeat(256) }), "LIMIT_EXCEEDED", "255"),
        (
            json!({ "type": "subscribe", "topic": "a.b", "returnMode": "some" }),
            "VALIDATION_FAILED",
            "returnMode",
        ),
        (json!({ "type": "subscribe", "topic": "a.b", "returnMode": 1 }), "VALIDATION_FAILED", "returnMode"),
        (json!({ "type": "subscribe", "topic": "a.b", "extra": 1 }), "VALIDATION_FAILED", "extra"),
        (
            json!({ "type": "subscribe", "topic": "a.b", "subscriptionId": "sub_x" }),
            "VALIDATION_FAILED",
            "subscriptionId",
        ),
        (
            json!({ "type": "subscribe", "topic": "a.b", "subscriptionId": "" }),
            "VALIDATION_FAILED",
            "subscriptionId",
        ),
        (since(json!("e:5")), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": "e" })), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": "e", "offset": -1 })), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": "e", "offset": 1.5 })), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": "e", "offset": "1" })), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": 1, "offset": 1 })), "VALIDATION_FAILED", "since"),
        (since(json!({ "epoch": "e", "offset": 1, "more": 1 })), "VALIDATION_FAILED", "since"),
        (json!({ "type": "unsubscribe" }), "VALIDATION_FAILED", "subscriptionId"),
        (json!({ "type": "unsubscribe", "subscriptionId": 7 }), "VALIDATION_FAILED", "subscriptionId"),
        (json!({ "type": "unsubscribe", "subscriptionId": "sub_x" }), "NOT_FOUND", "sub_x"),
        (json!({ "type": "history" }), "VALIDATION_FAILED", "topic"),
        (json!({ "type": "history", "topic": "a.b", "limit": 0 }), "VALIDATION_FAILED", "limit"),
        (json!({ "type": "history", "topic": "a.b", "limit": 501 }), "VALIDATION_FAILED", "limit"),
        (json!({ "type": "history", "topic": "a.b", "limit": "5" }), "VALIDATION_FAILED", "limit"),
        (json!({ "type": "history", "topic": "a.b", "since": 5 }), "VALIDATION_FAILED", "since"),
        (json!({ "type": "history", "topic": "a.b", "filter": {} }), "VALIDATION_FAILED", "filter"),
        (json!({ "type": "auth:refresh" }), "VALIDATION_FAILED", "token"),
        (json!({ "type": "auth:refresh", "token": 5 }), "VALIDATION_FAILED", "token"),
        (json!({ "type": "auth:refresh", "token": "x" }), "AUTH_FAILED", "token"),
        (json!({ "type": "ping", "payload": 1 }), "VALIDATION_FAILED", "payload"),
        (json!({ "type": "nonsense" }), "UNKNOWN_MESSAGE", "nonsense"),
        (json!({ "type": "" }), "UNKNOWN_MESSAGE", "type"),
    ]
}

fn wrong_filters() -> Vec<Case> {
    let filter = |filter: Value| json!({ "type": "subscribe", "topic": "a.b", "filter": filter });
    let fields = |count: usize| -> Value { (0..count).map(|n| (format!("f{n}"), json!(n))).collect() };
    let values: Vec<usize> = (0..257).collect();
    vec![
        (filter(json!([])), "INVALID_FILTER", "filter"),
        (filter(json!("x")), "INVALID_FILTER", "filter"),
        (filter(json!({ "a": [1] })), "INVALID_FILTER", "filter.a"),
        (filter(json!({ "a": {} })), "INVALID_FILTER", "filter.a"),
        (filter(json!({ "a": { "gt": 1 } })), "INVALID_FILTER", "filter.a"),
        (filter(json!({ "a": { "in": 1 } })), "INVALID_FILTER", "filter.a"),
        (filter(json!({ "a": { "in": [] } })), "INVALID_FILTER", "filter.a.in"),
        (filter(json!({ "a": { "in": [{}] } })), "INVALID_FILTER", "filter.a.in"),
        (filter(json!({ "a": { "in": [1], "gt": 1 } })), "INVALID_FILTER", "filter.a"),
        (filter(json!({ "": 1 })), "INVALID_FILTER", "filter."),
        (filter(json!({ "a..b": 1 })), "INVALID_FILTER", "filter.a..b"),
        (filter(fields(17)), "LIMIT_EXCEEDED", "16"),
        (filter(json!({ "a": { "in": values } })), "LIMIT_EXCEEDED", "256"),
    ]
}

fn wrong_publishes() -> Vec<Case> {
    let publish = |fields: Value| {
        let mut frame = json!({ "type": "publish", "topic": "a.b", "payload": {} });
        frame.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        frame
    };
    vec![
        (json!({ "type": "publish", "payload": {} }), "VALIDATION_FAILED", "topic"),
        (json!({ "type": "publish", "topic": "a.b" }), "VALIDATION_FAILED", "payload"),
        (publish(json!({ "payload": 5 })), "INVALID_PAYLOAD", "payload"),
        (publish(json!({ "payload": [] })), "INVALID_PAYLOAD", "payload"),
        (publish(json!({ "payload": { "a": "\u{0}" } })), "INVALID_TEXT", "payload"),
        (publish(json!({ "topic": "a/b" })), "INVALID_TOPIC", "topic"),
        (publish(json!({ "eventType": 5 })), "VALIDATION_FAILED", "eventType"),
        (publish(json!({ "eventType": "" })), "VALIDATION_FAILED", "eventType"),
        (publish(json!({ "eventType": "x".repeat(129) })), "VALIDATION_FAILED", "eventType"),
        (publish(json!({ "id": 5 })), "VALIDATION_FAILED", "id"),
        (publish(json!({ "id": "a b" })), "INVALID_ID", "id"),
        (publish(json!({ "id": "x".repeat(65) })), "INVALID_ID", "id"),
        (publish(json!({ "id": "evt_mine" })), "INVALID_ID", "id"),
        (publish(json!({ "source": "database" })), "VALIDATION_FAILED", "source"),
        (publish(json!({ "topic": "sync.notes.updated" })), "FORBIDDEN", "sync."),
        (publish(json!({ "eventType": "sync.updated" })), "FORBIDDEN", "eventType: what begins with sync."),
        (publish(json!({ "eventType": "database.insert" })), "FORBIDDEN", "eventType: what begins with"),
        (publish(json!({ "payload": { "a": [1, { "b": "\u{0}" }] } })), "INVALID_TEXT", "payload.a[1].b"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_wrong_message_is_answered_with_field_and_rule() {
    let platform = Platform::start().await;
    let generous = GatewayLimits { message_burst: 10_000, ..limits() };
    let instance = platform.instance_with(generous).await;
    let mut socket = Plain::open(&instance, &service()).await;
    let cases = wrong_shapes().into_iter().chain(wrong_filters()).chain(wrong_publishes());
    for (number, (mut frame, code, names)) in cases.enumerate() {
        frame["ref"] = json!(number);
        let shown = frame.to_string().chars().take(200).collect::<String>();
        let answer = socket.ask_frame(frame).await;
        assert_eq!((&answer["type"], &answer["ref"]), (&json!("error"), &json!(number)), "{shown}");
        assert_eq!(answer["code"], code, "{shown}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(names), "{shown}: {message}");
        let class = match code {
            "FORBIDDEN" => "ForbiddenError",
            "NOT_FOUND" => "NotFoundError",
            "AUTH_FAILED" => "UnauthorizedError",
            "LIMIT_EXCEEDED" => "PayloadTooLargeError",
            _ => "ValidationError",
        };
        assert_eq!(answer["error"], class, "{shown}");
    }
    assert_eq!(socket.ask_frame(json!({ "type": "ping" })).await, json!({ "type": "pong" }), "still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn numbers_and_texts_that_cannot_be_carried_are_refused() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    for (payload, code) in [(r#"{"a":1e999}"#, "INVALID_NUMBER"), (r#"{"a":"\ud800"}"#, "INVALID_TEXT")] {
        socket.send_text(&format!(r#"{{"type":"publish","topic":"a.b","ref":1,"payload":{payload}}}"#)).await;
        let answer = socket.frame().await.unwrap();
        assert_eq!((&answer["code"], &answer["ref"]), (&json!(code), &json!(1)), "{answer}");
    }
    let kept = r#"{"a":12.50,"b":123456789012345678901234567890}"#;
    socket.send_text(r#"{"type":"subscribe","topic":"a.b"}"#).await;
    socket.frame().await.unwrap();
    socket.send_text(&format!(r#"{{"type":"publish","topic":"a.b","ref":1,"payload":{kept}}}"#)).await;
    loop {
        match futures::StreamExt::next(&mut socket.socket).await.unwrap().unwrap() {
            Message::Text(text) if text.contains("\"event\"") => {
                assert!(text.contains(kept), "numbers are kept as written: {text}");
                return;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn three_malformed_frames_in_a_row_end_the_connection() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    let malformed = [
        ("not json", "INVALID_JSON"),
        ("[]", "INVALID_JSON"),
        ("{}", "VALIDATION_FAILED"),
        (r#"{"type":5,"ref":5}"#, "VALIDATION_FAILED"),
        (r#"{"type":"ping","type":"ping"}"#, "VALIDATION_FAILED"),
        (r#"{"type":"ping","ref":{}}"#, "VALIDATION_FAILED"),
        (r#"{"type":"ping","ref":[1]}"#, "VALIDATION_FAILED"),
    ];
    for pair in malformed.chunks(2) {
        for (text, code) in pair {
            socket.send_text(text).await;
            let answer = socket.frame().await.unwrap();
            assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!(code)), "{text}");
            assert_eq!(answer.get("ref"), text.contains(r#""ref":5"#).then_some(&json!(5)), "{text}");
        }
        // A frame that can be read, though refused, begins the count anew.
        let refused = socket.ask_frame(json!({ "type": "unknown" })).await;
        assert_eq!(refused["code"], "UNKNOWN_MESSAGE");
    }
    socket.send_text("1").await;
    socket.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    socket.send_text("2").await;
    let codes: Vec<Value> = [socket.frame().await, socket.frame().await, socket.frame().await]
        .into_iter()
        .map(|answer| answer.unwrap()["code"].clone())
        .collect();
    assert_eq!(codes, ["INVALID_JSON", "BINARY_NOT_SUPPORTED", "INVALID_JSON"]);
    assert_eq!(socket.frame().await, Err(1008));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_over_the_limit_ends_the_connection() {
    let (_platform, instance) = Platform::with_instance().await;
    let publish = |bytes: usize| {
        let frame = json!({ "type": "publish", "topic": "a.b", "ref": 1, "payload": { "x": "" } });
        let frame = frame.to_string();
        frame.replace(r#""x":"""#, &format!(r#""x":"{}""#, "x".repeat(bytes - frame.len())))
    };
    let mut socket = Plain::open(&instance, &service()).await;
    socket.send_text(&publish(64 << 10)).await;
    assert_eq!(socket.frame().await.unwrap()["type"], "ok", "64 KiB are allowed");
    socket.send_text(&publish((64 << 10) + 1)).await;
    let answer = socket.frame().await.unwrap();
    assert_eq!(
        (&answer["code"], &answer["error"]),
        (&json!("LIMIT_EXCEEDED"), &json!("PayloadTooLargeError"))
    );
    assert_eq!(socket.frame().await, Err(1008));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn too_many_subscriptions_are_refused() {
    let platform = Platform::start().await;
    let instance = platform.instance_with(GatewayLimits { subscriptions: 2, ..limits() }).await;
    let mut socket = Plain::open(&instance, &service()).await;
    let mut ids = Vec::new();
    for n in 0..2 {
        let subscribed = socket.ask_frame(json!({ "type": "subscribe", "topic": format!("t.{n}") })).await;
        ids.push(subscribed["subscriptionId"].clone());
    }
    let third = json!({ "type": "subscribe", "topic": "t.2", "ref": "third" });
    let refused = socket.ask_frame(third.clone()).await;
    assert_eq!((&refused["code"], &refused["error"]), (&json!("LIMIT_EXCEEDED"), &json!("RateLimitError")));
    socket.ask_frame(json!({ "type": "unsubscribe", "subscriptionId": ids[0] })).await;
    assert_eq!(socket.ask_frame(third).await["type"], "subscribed", "one that ended makes room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_application_may_lower_the_limits() {
    let platform = Platform::start().await;
    let lowered = json!({ "development": { "subscriptions": 1, "messageBytes": 200 } });
    sqlx::query(
        "update applications set config = jsonb_set(config, '{limits}', $1) where id = 'app_default'",
    )
    .bind(sqlx::types::Json(lowered))
    .execute(&platform.database.pool)
    .await
    .unwrap();
    let instance = platform.instance().await;
    let mut socket = Plain::open(&instance, &service()).await;
    assert_eq!(socket.ask_frame(json!({ "type": "subscribe", "topic": "t.0" })).await["type"], "subscribed");
    let second = socket.ask_frame(json!({ "type": "subscribe", "topic": "t.1" })).await;
    assert_eq!(second["code"], "LIMIT_EXCEEDED");
    let long = json!({ "type": "publish", "topic": "t.0", "payload": { "text": "x".repeat(200) } });
    assert_eq!(socket.ask_frame(long).await["code"], "LIMIT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_each_verb_covers_is_demanded() {
    let (_platform, instance) = Platform::with_instance().await;
    let frames = [
        ("subscribe", json!({ "type": "subscribe", "topic": "a.b" })),
        ("publish", json!({ "type": "publish", "topic": "a.b", "payload": {} })),
        ("history", json!({ "type": "history", "topic": "a.b" })),
    ];
    for (held, _) in &frames {
        let mut socket = Plain::open(&instance, &Token::of(&[held]).sign()).await;
        for (needed, frame) in &frames {
            let answer = socket.ask_frame(frame.clone()).await;
            if needed == held {
                assert_ne!(answer["type"], "error", "{held}: {answer}");
            } else {
                assert_eq!(
                    (&answer["code"], &answer["error"]),
                    (&json!("FORBIDDEN"), &json!("ForbiddenError"))
                );
            }
        }
    }
}
