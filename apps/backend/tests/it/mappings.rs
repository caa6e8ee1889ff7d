//! Mappings, their preview, and change data capture's status.

use crate::server::Server;
use auth::Role;
use axum::http::Method;
use serde_json::{Value, json};

fn mapping() -> Value {
    json!({
        "table": "sessions",
        "topic": "session.status",
        "events": ["insert", "update"],
        "triggerColumns": ["status"],
        "payload": { "sessionId": "$row.id", "status": "$row.status" },
        "when": { "changed": "status" },
        "environment": "development",
    })
}

#[tokio::test]
async fn mappings_are_made_changed_and_removed() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let made = server.post("/api/database/mappings", mapping()).by(&editor).send().await;
    assert_eq!(made.status, 201, "{}", made.text);
    let made = made.ok();
    assert_eq!((&made["version"], &made["environment"]), (&json!(1), &json!("development")));
    let path = format!("/api/database/mappings/{}", made["id"].as_str().unwrap());
    assert_eq!(server.get(&path).by(&editor).send().await.ok(), made);
    let changed = server
        .patch(&path, json!({ "when": null, "topic": "session.changed" }))
        .by(&editor)
        .send()
        .await
        .ok();
    assert_eq!((&changed["version"], &changed["topic"]), (&json!(2), &json!("session.changed")));
    assert!(changed.get("when").is_none());
    let same = server.patch(&path, json!({ "topic": "session.changed" })).by(&editor).send().await.ok();
    assert_eq!(same["version"], 2, "nothing changed, no new version");
    let by_topic = server.get("/api/database/mappings/topic/session.changed").by(&editor).send().await.ok();
    assert_eq!(by_topic[0]["id"], made["id"]);
    let none = server.get("/api/database/mappings/topic/session.status").by(&editor).send().await.ok();
    assert_eq!(none, json!([]));
    let list = server.get("/api/database/mappings").by(&editor).send().await.ok();
    assert_eq!(list.as_array().unwrap().len(), 1);
    server.delete(&path).by(&editor).send().await.ok();
    server.get(&path).by(&editor).send().await.refused(404, "NOT_FOUND");

    let mut elsewhere = mapping();
    elsewhere["environment"] = json!("staging");
    server
        .post("/api/database/mappings", elsewhere)
        .by(&editor)
        .send()
        .await
        .refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn preview_tells_what_would_happen() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let made = server.post("/api/database/mappings", mapping()).by(&editor).send().await.ok();
    let preview = |body: Value| server.post("/api/database/mappings/preview", body).by(&editor).send();
    let fires = json!({ "mappingId": made["id"], "operation": "update",
        "row": { "id": 7, "status": "ended" }, "old": { "id": 7, "status": "active" } });
    let fires = preview(fires).await.ok();
    assert_eq!(fires["fires"], true);
    assert_eq!(fires["event"]["payload"], json!({ "sessionId": 7, "status": "ended" }));
    let quiet = json!({ "mapping": mapping(), "operation": "update",
        "row": { "id": 7, "status": "ended" }, "old": { "id": 7, "status": "ended" } });
    let quiet = preview(quiet).await.ok();
    assert_eq!((&quiet["fires"], &quiet["event"]), (&json!(false), &json!(null)));
    assert!(quiet["reason"].is_string());
    let deleted =
        preview(json!({ "mapping": mapping(), "operation": "delete", "row": { "id": 7 } })).await.ok();
    assert_eq!(deleted["fires"], false);
    let unknown = json!({ "mappingId": "map_none", "operation": "insert", "row": {} });
    preview(unknown).await.refused(404, "NOT_FOUND");
    let both = json!({ "mapping": mapping(), "mappingId": made["id"], "operation": "insert", "row": {} });
    preview(both).await.refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn capture_is_started_and_stopped_by_scope() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let status = server.get("/api/database/cdc/status").by(&editor).send().await.ok();
    assert_eq!(
        (&status["desired"], &status["configured"], &status["state"]),
        (&json!("running"), &json!(false), &json!("stopped"))
    );
    let stopped = server.call(Method::POST, "/api/database/cdc/stop").by(&editor).send().await.ok();
    assert_eq!(stopped["desired"], "stopped");
    let staging = server
        .get("/api/database/cdc/status")
        .by(&editor)
        .header("x-environment", "staging")
        .send()
        .await
        .ok();
    assert_eq!(staging["desired"], "running");
    let started = server.call(Method::POST, "/api/database/cdc/start").by(&editor).send().await.ok();
    assert_eq!(started["desired"], "running");
}
