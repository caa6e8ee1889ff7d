//! The registry of topics.

use crate::server::Server;
use auth::Role;
use serde_json::json;

#[tokio::test]
async fn topics_are_registered_changed_and_removed() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let new = json!({ "name": "session.status", "description": "Changes", "owner": "platform" });
    let made = server.post("/api/topics", new.clone()).by(&editor).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["activeSchemaVersion"], json!(null));
    assert!(made["createdAt"].as_i64().unwrap() > 1_700_000_000_000);
    server.post("/api/topics", new).by(&editor).send().await.refused(409, "CONFLICT");
    let change = json!({ "owner": "other-team" });
    let changed = server.patch("/api/topics/session.status", change).by(&editor).send().await.ok();
    assert_eq!((&changed["owner"], &changed["description"]), (&json!("other-team"), &json!("Changes")));
    assert_eq!(server.get("/api/topics/session.status").by(&editor).send().await.ok(), changed);
    assert_eq!(server.delete("/api/topics/session.status").by(&editor).send().await.status, 200);
    for call in [
        server.get("/api/topics/session.status"),
        server.patch("/api/topics/session.status", json!({})),
        server.delete("/api/topics/session.status"),
    ] {
        let body = call.by(&editor).send().await.refused(404, "NOT_FOUND");
        assert_eq!(
            (&body["error"], &body["message"]),
            (&json!("NotFoundError"), &json!("topic not found: session.status"))
        );
    }
}

#[tokio::test]
async fn names_follow_the_stricter_rule() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    for name in ["session", "Session.status", "a..b", ".a.b", "a.b-", "a:b.c", ""] {
        let new = json!({ "name": name, "description": "d", "owner": "o" });
        server.post("/api/topics", new).by(&editor).send().await.refused(400, "INVALID_TOPIC");
    }
    let long = json!({ "name": format!("a.{}", "b".repeat(254)), "description": "d", "owner": "o" });
    server.post("/api/topics", long).by(&editor).send().await.refused(413, "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_topics_history_has_a_length_of_its_own() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let new = |name: &str, seconds: serde_json::Value| json!({ "name": name, "description": "d", "owner": "o", "historySeconds": seconds });
    let made = server.post("/api/topics", new("session.kept", json!(600))).by(&editor).send().await.ok();
    assert_eq!(made["historySeconds"], 600);
    let path = "/api/topics/session.kept";
    for (change, wanted) in [
        (json!({ "owner": "p" }), json!(600)),
        (json!({ "historySeconds": 31_536_000 }), json!(31_536_000)),
        (json!({ "historySeconds": null }), json!(null)),
        (json!({ "historySeconds": 60 }), json!(60)),
    ] {
        let changed = server.patch(path, change).by(&editor).send().await.ok();
        assert_eq!(changed["historySeconds"], wanted);
        assert_eq!(server.get(path).by(&editor).send().await.ok(), changed);
    }
    let plain = json!({ "name": "session.plain", "description": "d", "owner": "o" });
    let plain = server.post("/api/topics", plain).by(&editor).send().await.ok();
    assert_eq!(plain["historySeconds"], json!(null));
    for seconds in [json!(59), json!(0), json!(-1), json!(31_536_001), json!("600"), json!(1.5), json!({})] {
        for call in [
            server.post("/api/topics", new("session.bad", seconds.clone())),
            server.patch(path, json!({ "historySeconds": seconds.clone() })),
        ] {
            let body = call.by(&editor).send().await.refused(400, "VALIDATION_FAILED");
            assert_eq!(body["details"][0]["path"], "historySeconds", "{seconds}: {body}");
        }
    }
    assert_eq!(server.get(path).by(&editor).send().await.ok()["historySeconds"], 60);
}
