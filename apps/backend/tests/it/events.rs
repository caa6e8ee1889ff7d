//! Publishing over REST, and the history.

use crate::server::Server;
use auth::{Role, TokenRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn event(topic: &str, payload: Value) -> Value {
    json!({ "topic": topic, "payload": payload })
}

#[tokio::test]
async fn what_is_published_stands_in_the_history() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    let text = r#"{ "topic": "order.updated", "type": "moved", "payload": { "n": 1.0, "big": 12345678901234567890 } }"#;
    let first = server.call(axum::http::Method::POST, "/api/events").by(&service).text(text).send().await;
    assert_eq!(first.status, 201);
    let first = first.ok();
    assert_eq!(first["offset"], 1);
    assert!(first["id"].as_str().unwrap().starts_with("evt_"));
    let batch = json!([event("order.updated", json!({ "n": 2 })), event("order.updated", json!({ "n": 3 }))]);
    let batch = server.post("/api/events", batch).by(&service).send().await.ok();
    assert_eq!((batch[0]["offset"].as_i64(), batch[1]["offset"].as_i64()), (Some(2), Some(3)));

    let history = server.get("/api/topics/order.updated/history").by(&service).send().await;
    assert!(history.text.contains(r#""payload":{"n":1.0,"big":12345678901234567890}"#), "{}", history.text);
    let history = history.ok();
    assert_eq!((history["events"].as_array().unwrap().len(), &history["offset"]), (3, &json!(3)));
    let moved = &history["events"][0];
    assert_eq!((&moved["source"], &moved["type"]), (&json!("socket"), &json!("moved")));
    assert_eq!(history["events"][1]["type"], "message");
    let since = format!("{}:1", history["epoch"].as_str().unwrap());
    let path = format!("/api/topics/order.updated/history?since={since}&limit=1");
    let page = server.get(path).by(&service).send().await.ok();
    assert_eq!((page["events"].as_array().unwrap().len(), &page["offset"]), (1, &json!(2)));
    let empty = server.get("/api/topics/never.used/history").by(&service).send().await.ok();
    assert_eq!((&empty["events"], &empty["offset"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn an_id_is_published_once() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    let publish = |id: &str, n: i32| {
        let body = json!({ "topic": "a.b", "payload": { "n": n }, "id": id });
        server.post("/api/events", body).by(&service).send()
    };
    let first = publish("order-1", 1).await.ok();
    assert_eq!(publish("order-1", 1).await.ok(), first);
    publish("order-1", 2).await.refused(409, "ID_CONFLICT");
    publish("evt_1", 1).await.refused(400, "INVALID_ID");
    publish("a b", 1).await.refused(400, "INVALID_ID");
}

#[tokio::test]
async fn a_request_with_a_key_is_published_once() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    let publish = |key: &str, body: Value| {
        server.post("/api/events", body).by(&service).header("idempotency-key", key).send()
    };
    let batch = json!([event("a.b", json!({ "n": 1 })), event("a.c", json!({ "n": 2 }))]);
    let first = publish("k", batch.clone()).await.ok();
    assert_eq!(publish("k", batch).await.ok(), first);
    publish("k", event("a.b", json!({ "n": 9 }))).await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    let history = server.get("/api/topics/a.b/history").by(&service).send().await.ok();
    assert_eq!(history["offset"], 1);
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    let batch = json!([event("a.b", json!({})), { "topic": "a.b", "payload": {}, "type": "" }]);
    let body = server.post("/api/events", batch).by(&service).send().await.refused(400, "VALIDATION_FAILED");
    assert_eq!(body["details"][0]["path"], "[1].type");
    let wrong = json!([event("a.b", json!({})), event("a.b", json!([1]))]);
    server.post("/api/events", wrong).by(&service).send().await.refused(400, "INVALID_PAYLOAD");
    server.post("/api/events", json!([])).by(&service).send().await.refused(400, "VALIDATION_FAILED");
    let many: Vec<Value> = (0..1_001).map(|_| event("a.b", json!({}))).collect();
    server.post("/api/events", json!(many)).by(&service).send().await.refused(413, "LIMIT_EXCEEDED");
    let history = server.get("/api/topics/a.b/history").by(&service).send().await.ok();
    assert_eq!(history["offset"], 0);
}

#[tokio::test]
async fn rights_are_asked_on_the_name() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    for refused in [
        json!({ "topic": "sync.notes.updated", "payload": {} }),
        json!({ "topic": "a.b", "payload": {}, "type": "sync.updated" }),
        json!({ "topic": "a.b", "payload": {}, "type": "database.insert" }),
    ] {
        server.post("/api/events", refused).by(&service).send().await.refused(403, "FORBIDDEN");
    }
    let narrow = TokenRequest {
        application_id: "app_default".to_owned(),
        permissions: Some(vec!["publish".to_owned(), "history".to_owned()]),
        capabilities: Some(BTreeMap::from([("chat:*".to_owned(), vec!["publish".to_owned()])])),
        ..TokenRequest::default()
    };
    let narrow = server.issue(&narrow).await;
    server.post("/api/events", event("chat:1", json!({}))).by(&narrow).send().await.ok();
    server.post("/api/events", event("a.b", json!({}))).by(&narrow).send().await.refused(403, "FORBIDDEN");
    server.get("/api/topics/chat:1/history").by(&narrow).send().await.refused(403, "FORBIDDEN");
    let history_only = server.token(&["history"]).await;
    server.get("/api/topics/a.b/history").by(&history_only).send().await.ok();
    server
        .get("/api/topics/sync.notes.updated/history")
        .by(&history_only)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    let editor = server.person(Role::Editor, None).await;
    server.post("/api/events", event("a.b", json!({}))).by(&editor).send().await.ok();
}

#[tokio::test]
async fn registered_topics_only_where_the_policy_says_so() {
    let server = Server::start().await;
    let root = server.root().await;
    let config = json!({ "config": { "topicPolicy": { "development": "registered" } } });
    server.patch("/api/applications/app_default", config).by(&root).send().await.ok();
    server
        .post("/api/events", event("order.updated", json!({})))
        .by(&root)
        .send()
        .await
        .refused(404, "NOT_FOUND");
    server.get("/api/topics/order.updated/history").by(&root).send().await.refused(404, "NOT_FOUND");
    let topic = json!({ "name": "order.updated", "description": "d", "owner": "o" });
    server.post("/api/topics", topic).by(&root).send().await.ok();
    server.post("/api/events", event("order.updated", json!({}))).by(&root).send().await.ok();
    let staging = server
        .post("/api/events", event("order.moved", json!({})))
        .by(&root)
        .header("x-environment", "staging");
    staging.send().await.ok();
}

#[tokio::test]
async fn bad_history_requests_name_the_field() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    for (query, field) in
        [("since=1", "since"), ("since=a:b", "since"), ("limit=501", "limit"), ("from=1", "from")]
    {
        let answer = server.get(format!("/api/topics/a.b/history?{query}")).by(&service).send().await;
        assert_eq!(answer.refused(400, "VALIDATION_FAILED")["details"][0]["path"], field, "{query}");
    }
    server.get("/api/topics/a%20b/history").by(&service).send().await.refused(400, "INVALID_TOPIC");
}
