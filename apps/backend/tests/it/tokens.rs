//! Issuing, verifying and revoking tokens; signing keys.

use crate::server::Server;
use auth::Role;
use axum::http::Method;
use backend::state::Mode;
use serde_json::{Value, json};

fn wish(more: Value) -> Value {
    let mut body = json!({ "applicationId": "app_default", "sub": "bob", "permissions": ["subscribe"] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn issued(server: &Server, by: &str, body: Value) -> String {
    server.post("/auth/token", body).by(by).send().await.ok()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tokens_are_never_open_and_never_exceed_their_issuer() {
    let server = Server::start().await;
    server.post("/auth/token", wish(json!({}))).send().await.refused(401, "AUTH_REQUIRED");
    let key = server.api_key(&["service"]).await;
    let answer = server.post("/auth/token", wish(json!({ "ttlSeconds": 60 }))).by(&key).send().await.ok();
    let token = answer["token"].as_str().unwrap();
    let verified = server.post("/auth/verify", json!({ "token": token })).send().await.ok();
    assert_eq!(verified["valid"], true);
    let claims = &verified["claims"];
    assert_eq!(
        (&claims["sub"], &claims["aud"], &claims["env"]),
        (&json!("bob"), &json!("app_default"), &json!("development"))
    );
    assert_eq!(claims["exp"].as_i64().unwrap() * 1000, answer["expiresAt"].as_i64().unwrap());

    for more in [
        json!({ "permissions": ["admin"] }),
        json!({ "applicationId": "app_other" }),
        json!({ "environment": "production" }),
    ] {
        server.post("/auth/token", wish(more)).by(&key).send().await.refused(403, "FORBIDDEN");
    }
    server.post("/auth/token", wish(json!({}))).by(token).send().await.refused(403, "FORBIDDEN");

    let narrow =
        json!({ "permissions": ["service"], "capabilities": { "chat:*": ["subscribe", "publish"] } });
    let parent = issued(&server, &key, wish(narrow)).await;
    let within = json!({ "capabilities": { "chat:1": ["subscribe"] } });
    issued(&server, &parent, wish(within)).await;
    let beyond = json!({ "capabilities": { "*": ["subscribe"] } });
    server.post("/auth/token", wish(beyond)).by(&parent).send().await.refused(403, "FORBIDDEN");
    server.post("/auth/token", wish(json!({}))).by(&parent).send().await.refused(403, "FORBIDDEN");
}

#[tokio::test]
async fn people_issue_what_their_role_holds() {
    let server = Server::start().await;
    let viewer = server.person(Role::Viewer, None).await;
    issued(&server, &viewer, wish(json!({ "permissions": ["client"], "environment": "staging" }))).await;
    server
        .post("/auth/token", wish(json!({ "permissions": ["publish"] })))
        .by(&viewer)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    let editor = server.person(Role::Editor, None).await;
    issued(&server, &editor, wish(json!({ "permissions": ["service"] }))).await;
    server
        .post("/auth/token", wish(json!({ "permissions": ["admin"] })))
        .by(&editor)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    let root = server.root().await;
    issued(&server, &root, wish(json!({ "permissions": ["admin"] }))).await;
    server
        .post("/auth/token", wish(json!({ "applicationId": "app_none" })))
        .by(&root)
        .send()
        .await
        .refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn rotation_and_revocation_over_rest() {
    let server = Server::start().await;
    let root = server.root().await;
    let old = server.token(&["admin"]).await;
    let keys = server.get("/api/admin/keys").by(&root).send().await.ok();
    let first = keys[0]["keyId"].as_str().unwrap().to_owned();
    assert!(keys[0].get("secret").is_none());

    let made = server.call(Method::POST, format!("/api/admin/keys/{first}/rotate")).by(&root).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!((made["active"].as_bool(), made["secret"].as_str().map(str::len)), (Some(true), Some(64)));
    server.get("/api/topics").by(&old).send().await.ok();
    let new = server.token(&["admin"]).await;
    server.get("/api/topics").by(&new).send().await.ok();

    server.delete(format!("/api/admin/keys/{first}")).by(&root).send().await.ok();
    server.get("/api/topics").by(&old).send().await.refused(401, "AUTH_FAILED");
    let second = made["keyId"].as_str().unwrap();
    let inactive =
        server.call(Method::POST, format!("/api/admin/keys/{second}/deactivate")).by(&root).send().await.ok();
    assert_eq!(inactive["active"], false);
    server.get("/api/topics").by(&new).send().await.ok();
    server
        .call(Method::POST, "/api/admin/keys/key_none/rotate")
        .by(&root)
        .send()
        .await
        .refused(404, "NOT_FOUND");

    server.post("/api/admin/tokens/revoke", json!({ "sub": "alice" })).by(&root).send().await.ok();
    server.get("/api/topics").by(&new).send().await.refused(401, "TOKEN_REVOKED");
    let later = server.token(&["admin"]).await;
    server.get("/api/topics").by(&later).send().await.ok();
    let claims = server.post("/auth/verify", json!({ "token": later })).send().await.ok();
    server
        .post("/api/admin/tokens/revoke", json!({ "jti": claims["claims"]["jti"] }))
        .by(&root)
        .send()
        .await
        .ok();
    server.post("/auth/verify", json!({ "token": later })).send().await.refused(401, "TOKEN_REVOKED");
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_revoked_with_its_tokens() {
    let server = Server::start().await;
    let root = server.root().await;
    let path = "/api/applications/app_default/api-keys";
    let made = server.post(path, json!({ "environment": "staging", "name": "shop" })).by(&root).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with(&format!("rk_staging_{}_", made["id"].as_str().unwrap())));
    assert_eq!(made["permissions"], json!(["service"]));
    let list = server.get(path).by(&root).send().await.ok();
    assert!(list[0].get("key").is_none(), "{list}");
    let token = issued(&server, key, wish(json!({}))).await;
    server.post("/api/events", json!({ "topic": "a.b", "payload": {} })).by(key).send().await.ok();

    let revoke = format!("{path}/{}/revoke", made["id"].as_str().unwrap());
    server.call(Method::POST, revoke).by(&root).send().await.ok();
    server.post("/auth/token", wish(json!({}))).by(key).send().await.refused(401, "AUTH_FAILED");
    server.post("/auth/verify", json!({ "token": token })).send().await.refused(401, "TOKEN_REVOKED");
}

#[tokio::test]
async fn only_realtime_dev_issues_tokens_to_programs_on_the_machine() {
    let dev = Server::start_with(|settings| settings.mode = Mode::OwnMachine).await;
    let ask = |server: &'static str, peer: &'static str| {
        dev.post("/auth/token", wish(json!({}))).from(peer).header("host", server)
    };
    let token = ask("localhost:3000", "127.0.0.1:4000").send().await.ok();
    dev.post("/auth/verify", json!({ "token": token["token"] })).send().await.ok();
    for refused in [
        ask("localhost:3000", "10.0.0.9:4000"),
        ask("evil.example", "127.0.0.1:4000"),
        ask("localhost:3000", "127.0.0.1:4000").header("origin", "https://evil.example"),
        ask("localhost:3000", "127.0.0.1:4000").header("x-forwarded-for", "10.0.0.9"),
    ] {
        refused.send().await.refused(401, "AUTH_REQUIRED");
    }
    let usual = Server::start().await;
    let call =
        usual.post("/auth/token", wish(json!({}))).from("127.0.0.1:4000").header("host", "localhost:3000");
    call.send().await.refused(401, "AUTH_REQUIRED");
}

#[tokio::test]
async fn scopes_of_headers_that_cannot_be_read_are_nobodys() {
    let server = Server::start().await;
    let root = server.root().await;
    server
        .get("/api/topics")
        .by(&root)
        .header("x-application-id", "äpp")
        .send()
        .await
        .refused(404, "NOT_FOUND");
    server
        .get("/api/topics")
        .header("authorization", "Bearer tökén")
        .send()
        .await
        .refused(401, "AUTH_FAILED");
}
