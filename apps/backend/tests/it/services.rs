//! The registered namespaces of documents.

use crate::server::Server;
use auth::Role;
use serde_json::json;

#[tokio::test]
async fn services_are_registered_changed_and_removed() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let new = json!({ "name": "session", "description": "Session state documents" });
    let made = server.post("/api/services", new.clone()).by(&editor).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["applicationId"], "app_default");
    assert_eq!((&made["name"], &made["description"]), (&new["name"], &new["description"]));
    let time = made["createdAt"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "ISO 8601: {time}");
    server.post("/api/services", new).by(&editor).send().await.refused(409, "CONFLICT");
    let path = format!("/api/services/{}", made["id"].as_str().unwrap());
    assert_eq!(server.get(&path).by(&editor).send().await.ok(), made);
    let renamed = server.patch(&path, json!({ "name": "session-v2" })).by(&editor).send().await.ok();
    assert_eq!((&renamed["name"], &renamed["description"]), (&json!("session-v2"), &made["description"]));
    let bare = server.patch(&path, json!({ "description": null })).by(&editor).send().await.ok();
    assert_eq!((&bare["name"], &bare["description"]), (&json!("session-v2"), &json!(null)));
    server.post("/api/services", json!({ "name": "other" })).by(&editor).send().await.ok();
    server.patch(&path, json!({ "name": "other" })).by(&editor).send().await.refused(409, "CONFLICT");
    let removed = server.delete(&path).by(&editor).send().await;
    assert_eq!((removed.status.as_u16(), removed.text.as_str()), (204, ""));
    for call in [server.get(&path), server.patch(&path, json!({})), server.delete(&path)] {
        call.by(&editor).send().await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_token_that_may_read_documents_is_told_who_may_read_services() {
    let server = Server::start().await;
    let service = server.token(&["service"]).await;
    let refused = server.get("/api/services").by(&service).send().await.refused(403, "FORBIDDEN");
    let message =
        "no permission documents:read, which people have, and tokens and API keys of the role admin";
    assert_eq!(refused["message"], message);
    let viewer = server.person(Role::Viewer, None).await;
    let new = json!({ "name": "session" });
    let refused = server.post("/api/services", new).by(&viewer).send().await.refused(403, "FORBIDDEN");
    assert_eq!(refused["message"], "no permission documents:create");
    let admin = server.token(&["admin"]).await;
    server.get("/api/services").by(&admin).send().await.ok();
}

#[tokio::test]
async fn services_are_listed_in_pages_and_belong_to_one_application() {
    let server = Server::start().await;
    let root = server.root().await;
    for name in ["chat_rooms", "order-tracking", "session"] {
        server.post("/api/services", json!({ "name": name })).by(&root).send().await.ok();
    }
    let first = server.get("/api/services?limit=2").by(&root).send().await;
    let next = first.header("x-next-cursor").unwrap().to_owned();
    let names = |page: &serde_json::Value| -> Vec<String> {
        let services = page["services"].as_array().unwrap();
        services.iter().map(|service| service["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&first.ok()), ["chat_rooms", "order-tracking"]);
    let second = server.get(format!("/api/services?limit=2&cursor={next}")).by(&root).send().await;
    assert_eq!(second.header("x-next-cursor"), None);
    assert_eq!(names(&second.ok()), ["session"]);
    let other = server.application(&root).await;
    let theirs = server.get("/api/services").by(&root).header("x-application-id", &other).send().await.ok();
    assert_eq!(theirs, json!({ "services": [] }));
    let taken = server.post("/api/services", json!({ "name": "session" })).by(&root);
    assert_eq!(taken.header("x-application-id", &other).send().await.status, 201);
}

#[tokio::test]
async fn names_follow_the_rule() {
    let server = Server::start().await;
    let root = server.root().await;
    for name in ["Session", "123abc", "my service", "", "a.b"] {
        let body = server.post("/api/services", json!({ "name": name })).by(&root).send().await;
        assert_eq!(body.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "name");
    }
    let long = json!({ "name": "a".repeat(101) });
    server.post("/api/services", long).by(&root).send().await.refused(413, "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_repeated_registration_is_carried_out_once() {
    let server = Server::start().await;
    let root = server.root().await;
    let send = || {
        let call = server.post("/api/services", json!({ "name": "session" })).by(&root);
        call.header("idempotency-key", "one").send()
    };
    let first = send().await.ok();
    let second = send().await;
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(second.ok(), first);
}
