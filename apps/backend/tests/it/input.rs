//! Bad input for every route that takes a body: wrong type, missing field, oversized, unknown.

use crate::server::Server;
use axum::http::Method;
use backend::http::routes;
use serde_json::{Value, json};

/// A route with a good body, and the fields that may not be missing.
struct Case {
    method: Method,
    path: &'static str,
    body: Value,
    required: &'static [&'static str],
    /// A field and a value of a wrong type for it.
    wrong: (&'static str, Value),
    /// A field and a value that breaks its rule.
    broken: (&'static str, Value),
}

fn cases() -> Vec<Case> {
    let long = "x".repeat(5_000);
    let case =
        |method, path, body, required, wrong, broken| Case { method, path, body, required, wrong, broken };
    let mapping = json!({ "table": "orders", "topic": "order.updated", "events": ["insert"], "payload": { "id": "$row.id" } });
    vec![
        case(
            Method::POST,
            "/auth/token",
            json!({ "applicationId": "app_default" }),
            &["applicationId"],
            ("permissions", json!("admin")),
            ("permissions", json!(["fly"])),
        ),
        case(
            Method::POST,
            "/auth/token",
            json!({ "applicationId": "app_default" }),
            &[],
            ("ttlSeconds", json!("60")),
            ("ttlSeconds", json!(86_401)),
        ),
        case(
            Method::POST,
            "/auth/token",
            json!({ "applicationId": "app_default" }),
            &[],
            ("environment", json!("test")),
            ("sub", json!(long)),
        ),
        case(
            Method::POST,
            "/auth/verify",
            json!({ "token": "x" }),
            &["token"],
            ("token", json!(1)),
            ("token", json!(null)),
        ),
        case(
            Method::POST,
            "/api/admin/tokens/revoke",
            json!({ "sub": "a" }),
            &["sub"],
            ("sub", json!(7)),
            ("sub", json!(long)),
        ),
        case(
            Method::POST,
            "/api/auth/setup",
            json!({ "name": "A", "email": "a@b.c", "password": "long enough" }),
            &["name", "email", "password"],
            ("name", json!([])),
            ("email", json!("nobody")),
        ),
        case(
            Method::POST,
            "/api/auth/login",
            json!({ "email": "a@b.c", "password": "p" }),
            &["email", "password"],
            ("password", json!(1)),
            ("password", json!(long)),
        ),
        case(
            Method::POST,
            "/api/applications",
            json!({ "name": "A" }),
            &["name"],
            ("name", json!({})),
            ("name", json!(long)),
        ),
        case(
            Method::PATCH,
            "/api/applications/app_default",
            json!({}),
            &[],
            ("config", json!([])),
            ("name", json!(" ")),
        ),
        case(
            Method::POST,
            "/api/applications/app_default/api-keys",
            json!({ "environment": "staging", "name": "k" }),
            &["environment", "name"],
            ("environment", json!(1)),
            ("permissions", json!([])),
        ),
        case(
            Method::POST,
            "/api/topics",
            json!({ "name": "c.d", "description": "d", "owner": "o" }),
            &["name", "description", "owner"],
            ("owner", json!(true)),
            ("description", json!(long)),
        ),
        case(
            Method::PATCH,
            "/api/topics/a.b",
            json!({}),
            &[],
            ("owner", json!(3)),
            ("activeSchemaVersion", json!(3)),
        ),
        case(
            Method::PATCH,
            "/api/topics/a.b",
            json!({}),
            &[],
            ("activeSchemaVersion", json!(3_000_000_000_i64)),
            ("owner", json!("")),
        ),
        case(
            Method::POST,
            "/api/events",
            json!({ "topic": "a.b", "payload": {} }),
            &["topic", "payload"],
            ("topic", json!(1)),
            ("type", json!("")),
        ),
        case(
            Method::POST,
            "/api/sync/notes/documents",
            json!({ "data": {}, "id": "made-here" }),
            &["data"],
            ("data", json!([1])),
            ("expiresAt", json!(1)),
        ),
        case(
            Method::POST,
            "/api/sync/notes/documents",
            json!({ "data": {} }),
            &[],
            ("id", json!(7)),
            ("id", json!("no/good")),
        ),
        case(
            Method::PUT,
            "/api/sync/notes/documents/one",
            json!({ "data": {} }),
            &["data"],
            ("data", json!("text")),
            ("expiresAt", json!(-5)),
        ),
        case(
            Method::PATCH,
            "/api/sync/notes/documents/one/merge",
            json!({ "data": {} }),
            &["data"],
            ("expectedRevision", json!("1")),
            ("expectedRevision", json!(-1)),
        ),
        case(
            Method::POST,
            "/api/sync/notes/documents/one/mutate",
            json!({ "mutations": { "a": 1 } }),
            &["mutations"],
            ("mutations", json!("set")),
            ("mutations", json!([{ "op": "fly", "path": "/a" }])),
        ),
        case(
            Method::POST,
            "/api/sync/notes/documents/one/restore",
            json!({ "revision": 1 }),
            &["revision"],
            ("revision", json!("1")),
            ("revision", json!(1.5)),
        ),
        case(
            Method::POST,
            "/api/services",
            json!({ "name": "made-here" }),
            &["name"],
            ("description", json!(1)),
            ("name", json!("My Service")),
        ),
        case(
            Method::PATCH,
            "/api/services/{made}",
            json!({}),
            &[],
            ("name", json!([])),
            ("description", json!(long)),
        ),
        case(
            Method::POST,
            "/api/database/mappings",
            mapping.clone(),
            &["table", "topic", "events", "payload"],
            ("events", json!("insert")),
            ("table", json!("a.b.c")),
        ),
        case(
            Method::PATCH,
            "/api/database/mappings/{made}",
            json!({}),
            &[],
            ("payload", json!(1)),
            ("topic", json!("no good")),
        ),
        case(
            Method::POST,
            "/api/database/mappings/preview",
            json!({ "mapping": mapping, "operation": "insert", "row": { "id": 1 } }),
            &["mapping", "operation", "row"],
            ("row", json!([])),
            ("operation", json!("truncate")),
        ),
        case(
            Method::POST,
            "/api/database/mappings/{made}/versions",
            json!({ "environment": "development" }),
            &[],
            ("environment", json!(1)),
            ("environment", json!("test")),
        ),
        case(
            Method::POST,
            "/api/database/mappings/{made}/promote",
            json!({ "environment": "development" }),
            &[],
            ("environment", json!(["staging"])),
            ("environment", json!("test")),
        ),
        case(
            Method::POST,
            "/api/database/subscriptions",
            json!({ "mappingId": "map_1" }),
            &["mappingId"],
            ("mappingId", json!(1)),
            ("mappingId", json!(long)),
        ),
        case(
            Method::POST,
            "/api/socket/broadcast",
            json!({ "channel": "chat:room1", "event": "message", "data": 1 }),
            &["channel", "event"],
            ("event", json!(1)),
            ("event", json!("disconnect")),
        ),
        case(
            Method::POST,
            "/api/socket/broadcast",
            json!({ "channel": "chat:room1", "event": "message" }),
            &[],
            ("channel", json!(1)),
            ("channel", json!("a b")),
        ),
    ]
}

fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[field] = value;
    body
}

/// 400 or 413 in the one shape, whose text names the field.
#[track_caller]
fn names(answer: crate::server::Answer, field: &str, what: &str) {
    let (status, body) = (answer.status.as_u16(), answer.json());
    assert!([400, 413].contains(&status), "{what}: {status} {body}");
    assert!(body["message"].as_str().is_some_and(|message| message.contains(field)), "{what}: {body}");
}

#[tokio::test]
async fn bad_bodies_are_answered_by_field_and_rule() {
    let server = Server::start().await;
    let root = server.root().await;
    let topic = json!({ "name": "a.b", "description": "d", "owner": "o" });
    server.post("/api/topics", topic).by(&root).send().await.ok();
    let mapping =
        json!({ "table": "t", "topic": "a.b", "events": ["insert"], "payload": { "id": "$row.id" } });
    let made = server.post("/api/database/mappings", mapping).by(&root).send().await.ok();
    server.post("/api/sync/notes/documents", json!({ "id": "one", "data": {} })).by(&root).send().await.ok();
    let service = server.post("/api/services", json!({ "name": "s" })).by(&root).send().await.ok();
    for case in cases() {
        let made = if case.path.starts_with("/api/services") { &service } else { &made };
        let path = case.path.replace("{made}", made["id"].as_str().unwrap());
        let send = |body: String| server.call(case.method.clone(), path.as_str()).by(&root).text(body).send();
        let place = format!("{} {}", case.method, case.path);
        for field in case.required {
            let mut body = case.body.clone();
            body.as_object_mut().unwrap().remove(*field);
            names(send(body.to_string()).await, field, &format!("{place} without {field}"));
        }
        let (field, value) = &case.wrong;
        names(
            send(with(&case.body, field, value.clone()).to_string()).await,
            field,
            &format!("{place} {field}={value}"),
        );
        let (field, value) = &case.broken;
        names(
            send(with(&case.body, field, value.clone()).to_string()).await,
            field,
            &format!("{place} broken {field}"),
        );
        let unknown = with(&case.body, "surprise", json!(1)).to_string();
        names(send(unknown).await, "surprise", &format!("{place} with an unknown field"));
        let oversized = with(&case.body, "surprise", json!("x".repeat(1024 * 1024))).to_string();
        assert_eq!(
            send(oversized).await.refused(413, "LIMIT_EXCEEDED")["error"],
            "PayloadTooLargeError",
            "{place}"
        );
        for not_an_object in ["1", "\"text\"", "null", "true", "[]", "[1, 2, 3, 4]"] {
            let answer = send(not_an_object.to_owned()).await;
            assert_eq!(answer.status, 400, "{place} {not_an_object}: {}", answer.text);
        }
    }
}

/// Routes without a body, which therefore have no case above.
const WITHOUT_BODY: [&str; 11] = [
    "/api/database/cdc/check",
    "/api/database/subscriptions/{id}/activate",
    "/api/database/subscriptions/{id}/deactivate",
    "/api/auth/logout",
    "/api/admin/keys",
    "/api/admin/keys/{id}/rotate",
    "/api/admin/keys/{id}/deactivate",
    "/api/applications/{id}/api-keys/{keyId}/revoke",
    "/api/database/cdc/start",
    "/api/database/cdc/stop",
    "/api/database/mappings/{id}/backfill",
];

#[test]
fn every_route_with_a_body_has_a_case() {
    let covered: Vec<String> = cases()
        .iter()
        .map(|case| {
            case.path
                .replace("app_default", "{id}")
                .replace("a.b", "{name}")
                .replace("{made}", "{id}")
                .replace("/notes/", "/{service}/")
                .replace("/one", "/{id}")
        })
        .collect();
    let missing: Vec<_> = routes()
        .into_iter()
        .filter(|route| matches!(route.method, Method::POST | Method::PUT | Method::PATCH))
        .map(|route| route.path)
        .filter(|path| !covered.iter().any(|known| known == path) && !WITHOUT_BODY.contains(path))
        .collect();
    assert!(missing.is_empty(), "no bad input is tested of {missing:?}");
}
