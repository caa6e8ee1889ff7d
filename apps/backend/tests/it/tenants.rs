//! Nothing of one application shows in another.

use crate::server::Server;
use auth::{Role, TokenRequest};
use serde_json::json;
use shared_types::Environment;

#[tokio::test]
async fn scopes_see_only_their_own() {
    let server = Server::start().await;
    let root = server.root().await;
    let other = server.application(&root).await;
    let topic = json!({ "name": "a.b", "description": "d", "owner": "o" });
    server.post("/api/topics", topic.clone()).by(&root).send().await.ok();
    for (application, environment) in [(other.as_str(), "development"), ("app_default", "staging")] {
        let get = server.get("/api/topics/a.b").by(&root);
        let answer =
            get.header("x-application-id", application).header("x-environment", environment).send().await;
        answer.refused(404, "NOT_FOUND");
        let list = server.get("/api/topics").by(&root);
        let list =
            list.header("x-application-id", application).header("x-environment", environment).send().await;
        assert_eq!(list.ok(), json!([]));
        let make = server.post("/api/topics", topic.clone()).by(&root);
        make.header("x-application-id", application).header("x-environment", environment).send().await.ok();
    }
    let gone = server.get("/api/topics").by(&root).header("x-application-id", "app_none").send().await;
    gone.refused(404, "NOT_FOUND");
    let odd = server.get("/api/topics").by(&root).header("x-environment", "test").send().await;
    assert_eq!(odd.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "X-Environment");
}

#[tokio::test]
async fn a_token_stays_in_its_scope() {
    let server = Server::start().await;
    let root = server.root().await;
    let other = server.application(&root).await;
    let request = TokenRequest {
        application_id: other.clone(),
        environment: Some(Environment::Staging),
        permissions: Some(vec!["admin".to_owned()]),
        ..TokenRequest::default()
    };
    let token = server.issue(&request).await;
    let topic = json!({ "name": "a.b", "description": "d", "owner": "o" });
    let made = server.post("/api/topics", topic).by(&token).send().await.ok();
    assert_eq!((&made["applicationId"], &made["environment"]), (&json!(other), &json!("staging")));
    for (name, value) in [("x-application-id", "app_default"), ("x-environment", "development")] {
        server.get("/api/topics").by(&token).header(name, value).send().await.refused(403, "SCOPE_MISMATCH");
    }
    let same = server
        .get("/api/topics")
        .by(&token)
        .header("x-application-id", &other)
        .header("x-environment", "staging");
    same.send().await.ok();
    server.get("/api/applications/app_default").by(&token).send().await.refused(404, "NOT_FOUND");
    let visible = server.get("/api/applications").by(&token).send().await.ok();
    assert_eq!(visible.as_array().unwrap().len(), 1);
    let keys = server.get("/api/admin/keys").by(&token).send().await.ok();
    let own = keys[0]["keyId"].as_str().unwrap();
    let elsewhere = server.get("/api/admin/keys").by(&root).send().await.ok();
    assert!(!elsewhere.to_string().contains(own), "signing keys are each application's own");
}

#[tokio::test]
async fn a_role_in_one_application_holds_only_there() {
    let server = Server::start().await;
    let root = server.root().await;
    let other = server.application(&root).await;
    let admin = server.person(Role::Admin, Some(&other)).await;
    let unknown = server.get("/api/topics").by(&admin).header("x-application-id", "app_none").send().await;
    let hidden = server.get("/api/topics").by(&admin).header("x-application-id", "app_default").send().await;
    let say = |body: serde_json::Value| body["message"].as_str().unwrap().replace("app_default", "app_none");
    assert_eq!(say(unknown.refused(404, "NOT_FOUND")), say(hidden.refused(404, "NOT_FOUND")), "no hint");
    server.get("/api/topics").by(&admin).header("x-application-id", &other).send().await.ok();
    let visible = server.get("/api/applications").by(&admin).send().await.ok();
    assert_eq!(
        visible.as_array().unwrap().iter().map(|a| a["id"].clone()).collect::<Vec<_>>(),
        [json!(other)]
    );
    server.get(format!("/api/applications/{other}")).by(&admin).send().await.ok();
    server.get("/api/applications/app_default").by(&admin).send().await.refused(404, "NOT_FOUND");
    server
        .post("/api/applications", json!({ "name": "Mine" }))
        .by(&admin)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    let body = json!({ "applicationId": "app_default" });
    server.post("/auth/token", body).by(&admin).send().await.refused(404, "NOT_FOUND");
    let super_there = server.person(Role::SuperAdmin, Some(&other)).await;
    server
        .post("/api/applications", json!({ "name": "Mine" }))
        .by(&super_there)
        .send()
        .await
        .refused(403, "FORBIDDEN");
    server
        .patch(format!("/api/applications/{other}"), json!({ "name": "Renamed" }))
        .by(&super_there)
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn another_applications_things_look_like_none() {
    let server = Server::start().await;
    let root = server.root().await;
    let other = server.application(&root).await;
    let here = async |call: crate::server::Call<'_>| call.by(&root).send().await;
    let mapping =
        json!({ "table": "t", "topic": "a.b", "events": ["insert"], "payload": { "id": "$row.id" } });
    let made = server
        .post("/api/database/mappings", mapping)
        .by(&root)
        .header("x-application-id", &other)
        .send()
        .await
        .ok();
    let mapping = format!("/api/database/mappings/{}", made["id"].as_str().unwrap());
    here(server.get(&mapping)).await.refused(404, "NOT_FOUND");
    here(server.patch(&mapping, json!({}))).await.refused(404, "NOT_FOUND");
    here(server.delete(&mapping)).await.refused(404, "NOT_FOUND");
    let key = json!({ "environment": "development", "name": "k" });
    let made = here(server.post(format!("/api/applications/{other}/api-keys"), key)).await.ok();
    let revoke = format!("/api/applications/app_default/api-keys/{}/revoke", made["id"].as_str().unwrap());
    here(server.call(axum::http::Method::POST, revoke)).await.refused(404, "NOT_FOUND");
    here(server.delete(format!("/api/applications/{other}"))).await.ok();
    server.get("/api/topics").by(made["key"].as_str().unwrap()).send().await.refused(401, "AUTH_FAILED");
}
