//! Documents: every operation, who may, and what is told of it.

use crate::server::{Answer, Server};
use auth::{Role, TokenRequest};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

pub const NOTES: &str = "/api/sync/notes/documents";
pub const ONE: &str = "/api/sync/notes/documents/one";

/// Creates the document `one`.
pub async fn create(server: &Server, by: &str, data: Value) -> Value {
    let made = server.post(NOTES, json!({ "id": "one", "data": data })).by(by).send().await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.ok()
}

/// The events of a topic, oldest first.
pub async fn events(server: &Server, by: &str, topic: &str) -> Vec<Value> {
    let page = server.get(format!("/api/topics/{topic}/history?limit=500")).by(by).send().await.ok();
    page["events"].as_array().unwrap().clone()
}

#[tokio::test]
async fn documents_as_documented() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let new = json!({ "data": { "status": "active", "participantCount": 0 } });
    let made = server.post("/api/sync/session/documents", new).by(&token).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("doc_"), "{id}");
    assert_eq!((&made["service"], &made["revision"]), (&json!("session"), &json!(1)));
    assert_eq!(made["createdAt"], made["updatedAt"]);
    assert!(made["createdAt"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(made.get("deleted"), None);
    let path = format!("/api/sync/session/documents/{id}");
    assert_eq!(server.get(&path).by(&token).send().await.ok(), made);

    let merge = json!({ "data": { "notes": "Session completed" }, "expectedRevision": 1 });
    let merged = server.patch(format!("{path}/merge"), merge).by(&token).send().await.ok();
    assert_eq!(
        merged["data"],
        json!({ "status": "active", "participantCount": 0, "notes": "Session completed" })
    );
    let mutations = json!({
        "mutations": [
            { "op": "set", "path": "/status", "value": "ended" },
            { "op": "increment", "path": "/participantCount", "value": -1 },
        ],
        "expectedRevision": 2,
    });
    let mutated = server.post(format!("{path}/mutate"), mutations).by(&token).send().await.ok();
    assert_eq!((&mutated["revision"], &mutated["data"]["participantCount"]), (&json!(3), &json!(-1)));
    let object = json!({ "mutations": { "status": "over", "endedAt": 5 } });
    let mutated = server.post(format!("{path}/mutate"), object).by(&token).send().await.ok();
    assert_eq!((&mutated["data"]["status"], &mutated["data"]["endedAt"]), (&json!("over"), &json!(5)));
    let replace = json!({ "data": { "status": "ended" }, "expectedRevision": 4 });
    let replaced = server.put(&path, replace).by(&token).send().await.ok();
    assert_eq!((&replaced["revision"], &replaced["data"]), (&json!(5), &json!({ "status": "ended" })));
    assert_eq!(replaced["createdAt"], made["createdAt"]);

    let gone = server.delete(&path).by(&token).send().await;
    assert_eq!(gone.status, 200);
    let gone = gone.ok();
    assert_eq!((&gone["deleted"], &gone["revision"]), (&json!(true), &json!(6)));
    for call in [
        server.get(&path),
        server.put(&path, json!({ "data": {} })),
        server.patch(format!("{path}/merge"), json!({ "data": {} })),
        server.post(format!("{path}/mutate"), json!({ "mutations": { "a": 1 } })),
        server.delete(&path),
    ] {
        call.by(&token).send().await.refused(404, "NOT_FOUND");
    }
    let again =
        server.post("/api/sync/session/documents", json!({ "id": id, "data": {} })).by(&token).send().await;
    assert_eq!(again.ok()["revision"], 7, "its revisions count on");
}

#[tokio::test]
async fn every_write_is_told_in_order() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "a": { "b": 1 }, "c": 1 })).await;
    let merge = |data: Value| server.patch(format!("{ONE}/merge"), json!({ "data": data })).by(&token).send();
    merge(json!({ "a": { "b": 2 } })).await.ok();
    merge(json!({ "d": null })).await.ok();
    server.put(ONE, json!({ "data": { "d": null } })).by(&token).send().await.ok();
    server.delete(ONE).by(&token).send().await.ok();
    let created = events(&server, &token, "sync.notes.created").await;
    let updated = events(&server, &token, "sync.notes.updated").await;
    let deleted = events(&server, &token, "sync.notes.deleted").await;
    assert_eq!((created.len(), updated.len(), deleted.len()), (1, 3, 1));
    let diffs: Vec<&Value> = updated.iter().map(|event| &event["payload"]["diff"]).collect();
    assert_eq!(
        diffs,
        [
            &json!({ "added": {}, "removed": [], "changed": { "a.b": { "from": 1, "to": 2 } } }),
            &json!({ "added": { "d": null }, "removed": [], "changed": {} }),
            &json!({ "added": {}, "removed": ["a", "c"], "changed": {} }),
        ]
    );
    for (index, event) in updated.iter().enumerate() {
        let revision = index + 2;
        assert_eq!((&event["source"], &event["type"]), (&json!("sync"), &json!("sync.updated")));
        assert_eq!(event["payload"]["service"], "notes");
        assert_eq!(event["payload"]["documentId"], "one");
        assert_eq!(
            (&event["payload"]["revision"], &event["metadata"]["revision"]),
            (&json!(revision), &json!(revision))
        );
        assert_eq!(event["metadata"]["operation"], "update");
        assert_eq!(event["metadata"]["offset"], json!(index + 1));
    }
    assert_eq!(deleted[0]["payload"]["data"], json!({ "d": null }), "filters see what was deleted");
    let revisions = server.get(format!("{ONE}/revisions")).by(&token).send().await.ok();
    assert_eq!(revisions[1]["eventId"], updated[2]["id"]);
}

#[tokio::test]
async fn another_revision_is_a_conflict_that_names_the_current_one() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "n": 1 })).await;
    for call in [
        server.put(ONE, json!({ "data": {}, "expectedRevision": 3 })),
        server.patch(format!("{ONE}/merge"), json!({ "data": {}, "expectedRevision": 3 })),
        server.post(format!("{ONE}/mutate"), json!({ "mutations": { "a": 1 }, "expectedRevision": 3 })),
        server.post(format!("{ONE}/restore"), json!({ "revision": 1, "expectedRevision": 3 })),
        server.delete(format!("{ONE}?expectedRevision=3")),
    ] {
        let body = call.by(&token).send().await.refused(409, "REVISION_CONFLICT");
        assert_eq!(body["error"], "ConflictError");
        assert_eq!(body["details"], json!([{ "path": "currentRevision", "message": "1" }]));
        assert!(body["message"].as_str().unwrap().contains("conflict"));
    }
    assert_eq!(server.get(ONE).by(&token).send().await.ok()["revision"], 1);
    server.delete(format!("{ONE}?expectedRevision=1")).by(&token).send().await.ok();
}

#[tokio::test]
async fn mutations_apply_all_or_none() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "n": 1, "list": [1] })).await;
    let mutate = |mutations: Value| {
        server.post(format!("{ONE}/mutate"), json!({ "mutations": mutations })).by(&token).send()
    };
    let body = mutate(json!([
        { "op": "increment", "path": "/n", "value": 1 },
        { "op": "push", "path": "/n", "value": 1 },
    ]))
    .await
    .refused(400, "INVALID_MUTATION");
    assert_eq!(body["details"][0]["path"], "mutations[1]");
    assert_eq!(server.get(ONE).by(&token).send().await.ok()["data"]["n"], 1);
    let many: Vec<Value> = (0..1_001).map(|_| json!({ "op": "push", "path": "/list", "value": 1 })).collect();
    mutate(Value::from(many)).await.refused(413, "LIMIT_EXCEEDED");
    let done =
        mutate(json!([{ "op": "pull", "path": "/list", "value": 1 }, { "op": "unset", "path": "/n" }])).await;
    assert_eq!(done.ok()["data"], json!({ "list": [] }));
}

#[tokio::test]
async fn numbers_are_kept_as_written_and_texts_are_checked() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let body = r#"{"id":"one","data":{"a":1.0,"b":1e2,"c":12345678901234567890,"d":"\u00e4"}}"#;
    let made = server.post(NOTES, json!({})).text(body).by(&token).send().await;
    let written = r#"{"a":1.0,"b":1e2,"c":12345678901234567890,"d":"\u00e4"}"#;
    assert!(made.text.contains(written), "{}", made.text);
    assert!(server.get(ONE).by(&token).send().await.text.contains(written));
    let merge = server
        .patch(format!("{ONE}/merge"), json!({}))
        .text(r#"{"data":{"e":2.50}}"#)
        .by(&token)
        .send()
        .await;
    assert!(merge.text.contains(r#""c":12345678901234567890,"d":"\u00e4","e":2.50}"#), "{}", merge.text);
    for (data, code) in [
        (r#"{"a":"\u0000"}"#, "INVALID_TEXT"),
        (r#"{"a":1e999}"#, "INVALID_NUMBER"),
        ("[]", "INVALID_PAYLOAD"),
    ] {
        let bad = server.post(NOTES, json!({})).text(format!("{{\"data\":{data}}}")).by(&token).send().await;
        bad.refused(400, code);
    }
}

#[tokio::test]
async fn documents_grow_to_the_limit_and_not_beyond() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let half = "x".repeat(600 * 1024);
    create(&server, &token, json!({ "a": half })).await;
    let merge =
        server.patch(format!("{ONE}/merge"), json!({ "data": { "b": half } })).by(&token).send().await;
    let body = merge.refused(413, "LIMIT_EXCEEDED");
    assert_eq!(body["error"], "PayloadTooLargeError");
    let deep =
        format!("{{\"mutations\":[{{\"op\":\"set\",\"path\":\"{}\",\"value\":1}}]}}", "/a".repeat(101));
    server.delete(ONE).by(&token).send().await.ok();
    create(&server, &token, json!({})).await;
    server
        .post(format!("{ONE}/mutate"), json!({}))
        .text(deep)
        .by(&token)
        .send()
        .await
        .refused(400, "TOO_DEEP");
}

#[tokio::test]
async fn an_id_is_used_once() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({})).await;
    let again = server.post(NOTES, json!({ "id": "one", "data": {} })).by(&token).send().await;
    again.refused(409, "CONFLICT");
    for id in ["", ".", "..", "a/b", "a b", "ä"] {
        let bad = server.post(NOTES, json!({ "id": id, "data": {} })).by(&token).send().await;
        assert_eq!(bad.refused(400, "INVALID_ID")["details"][0]["path"], "id");
    }
    let long = server.post(NOTES, json!({ "id": "a".repeat(129), "data": {} })).by(&token).send().await;
    long.refused(413, "LIMIT_EXCEEDED");
    for service in ["Notes", "1a", "a.b"] {
        let bad = server
            .post(format!("/api/sync/{service}/documents"), json!({ "data": {} }))
            .by(&token)
            .send()
            .await;
        assert_eq!(bad.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "service");
        let presence =
            server.get(format!("/api/sync/{service}/documents/one/presence")).by(&token).send().await;
        assert_eq!(presence.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "service");
    }
    let presence = server.get("/api/sync/notes/documents/a%20b/presence").by(&token).send().await;
    assert_eq!(presence.refused(400, "INVALID_ID")["details"][0]["path"], "id");
}

#[tokio::test]
async fn a_repeated_creation_is_carried_out_once() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let send =
        |key: &str, body: Value| server.post(NOTES, body).by(&token).header("idempotency-key", key).send();
    let first = send("k1", json!({ "data": { "n": 1 } })).await;
    assert_eq!(first.status, 201);
    let first = first.ok();
    let second = send("k1", json!({ "data": { "n": 1 } })).await;
    assert_eq!((second.status.as_u16(), second.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(second.ok(), first);
    send("k1", json!({ "data": { "n": 2 } })).await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    send("refused", json!({ "id": "taken", "data": { "n": 1 } })).await.ok();
    send("k2", json!({ "id": "taken", "data": { "n": 2 } })).await.refused(409, "CONFLICT");
    let corrected = send("k2", json!({ "id": "free", "data": { "n": 2 } })).await;
    assert_eq!(
        (corrected.status.as_u16(), corrected.header("idempotency-replayed")),
        (201, None),
        "the key is free again"
    );
    // As after a crash between the commit and keeping the answer: the document shows who made it.
    for id in [None, Some("given")] {
        let (key, body) = (format!("k2{id:?}"), json!({ "data": { "n": 1 }, "id": id }));
        let made = send(&key, body.clone()).await.ok();
        let path = format!("{NOTES}/{}", made["id"].as_str().unwrap());
        sqlx::query("update idempotency_records set status = null, response = null")
            .execute(&server.test.pool)
            .await
            .unwrap();
        assert_eq!(send(&key, body.clone()).await.ok(), made);
        server
            .patch(format!("{path}/merge"), json!({ "data": { "n": 2, "m": 1 } }))
            .by(&token)
            .send()
            .await
            .ok();
        sqlx::query("update idempotency_records set status = null, response = null")
            .execute(&server.test.pool)
            .await
            .unwrap();
        assert_eq!(send(&key, body).await.ok(), made, "as it was created");
    }
    assert_eq!(events(&server, &token, "sync.notes.created").await.len(), 5);
    let other = json!({ "data": {}, "id": "given" });
    send("k3", other).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn documents_are_listed_in_pages_by_prefix() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    for id in ["user:1", "user:2", "user:3", "other"] {
        server.post(NOTES, json!({ "id": id, "data": {} })).by(&token).send().await.ok();
    }
    let ids = |page: &Value| -> Vec<String> {
        page.as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&server.get(NOTES).by(&token).send().await.ok()), ["other", "user:1", "user:2", "user:3"]);
    let first = server.get(format!("{NOTES}?prefix=user:&limit=2")).by(&token).send().await;
    let link = first.header("link").unwrap().to_owned();
    assert_eq!(ids(&first.ok()), ["user:1", "user:2"]);
    let path = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let second = server.get(path).by(&token).send().await;
    assert_eq!((second.header("x-next-cursor"), ids(&second.json())), (None, vec!["user:3".to_owned()]));
    for query in ["limit=0", "limit=501", "cursor=%21", "prefix=a/b", "what=1"] {
        let bad = server.get(format!("{NOTES}?{query}")).by(&token).send().await;
        bad.refused(400, "VALIDATION_FAILED");
    }
    let elsewhere = server.get("/api/sync/other/documents").by(&token).send().await.ok();
    assert_eq!(elsewhere, json!([]));
}

#[tokio::test]
async fn capabilities_name_documents() {
    let server = Server::start().await;
    let root = server.token(&["service"]).await;
    for id in ["mine-1", "theirs"] {
        server.post(NOTES, json!({ "id": id, "data": {} })).by(&root).send().await.ok();
    }
    let capabilities: BTreeMap<String, Vec<String>> =
        [("sync.notes.mine-*".to_owned(), vec!["documents:read".to_owned(), "documents:write".to_owned()])]
            .into();
    let request = TokenRequest {
        application_id: "app_default".to_owned(),
        sub: Some("alice".to_owned()),
        permissions: Some(vec!["documents:read".to_owned(), "documents:write".to_owned()]),
        capabilities: Some(capabilities),
        ..TokenRequest::default()
    };
    let narrow = server.issue(&request).await;
    let mine = format!("{NOTES}/mine-1");
    server.get(&mine).by(&narrow).send().await.ok();
    server.patch(format!("{mine}/merge"), json!({ "data": { "a": 1 } })).by(&narrow).send().await.ok();
    server.post(NOTES, json!({ "id": "mine-2", "data": {} })).by(&narrow).send().await.ok();
    let listed = server.get(format!("{NOTES}?prefix=mine-")).by(&narrow).send().await.ok();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let theirs = format!("{NOTES}/theirs");
    for call in [
        server.get(NOTES),
        server.get(format!("{NOTES}?prefix=the")),
        server.get(&theirs),
        server.get(format!("{theirs}/revisions")),
        server.put(&theirs, json!({ "data": {} })),
        server.patch(format!("{theirs}/merge"), json!({ "data": {} })),
        server.post(format!("{theirs}/mutate"), json!({ "mutations": { "a": 1 } })),
        server.post(format!("{theirs}/restore"), json!({ "revision": 1 })),
        server.delete(&theirs),
        server.post(NOTES, json!({ "id": "new", "data": {} })),
        server.post(NOTES, json!({ "data": {} })),
    ] {
        call.by(&narrow).send().await.refused(403, "FORBIDDEN");
    }
    let reader = server.token(&["client"]).await;
    server.get(&theirs).by(&reader).send().await.ok();
    server.put(&theirs, json!({ "data": {} })).by(&reader).send().await.refused(403, "FORBIDDEN");
}

#[tokio::test]
async fn only_registered_services_where_the_policy_says_so() {
    let server = Server::start().await;
    let root = server.root().await;
    let token = server.token(&["service"]).await;
    let config = json!({ "config": { "topicPolicy": { "development": "registered" } } });
    server.patch("/api/applications/app_default", config).by(&root).send().await.ok();
    server.state.authenticator.refresh().await.unwrap();
    let new = || server.post(NOTES, json!({ "data": {} })).by(&token).send();
    assert_eq!(new().await.refused(404, "NOT_FOUND")["message"], "service not found: notes");
    server.post("/api/services", json!({ "name": "notes" })).by(&root).send().await.ok();
    assert_eq!(new().await.status, 201);
}

#[tokio::test]
async fn tenants_do_not_see_each_others_documents() {
    let server = Server::start().await;
    let root = server.root().await;
    let other = server.application(&root).await;
    create(&server, &root, json!({ "secret": 1 })).await;
    let elsewhere = [("x-application-id", other.as_str()), ("x-environment", "staging")];
    for (name, value) in elsewhere {
        server.get(ONE).by(&root).header(name, value).send().await.refused(404, "NOT_FOUND");
        assert_eq!(server.get(NOTES).by(&root).header(name, value).send().await.ok(), json!([]));
        server
            .get(format!("{ONE}/revisions"))
            .by(&root)
            .header(name, value)
            .send()
            .await
            .refused(404, "NOT_FOUND");
        let made =
            server.post(NOTES, json!({ "id": "one", "data": {} })).by(&root).header(name, value).send().await;
        assert_eq!(made.ok()["revision"], 1);
    }
    let viewer = server.person(Role::Viewer, Some(&other)).await;
    server.get(ONE).by(&viewer).send().await.refused(404, "NOT_FOUND");
    assert_eq!(server.get(ONE).by(&root).send().await.ok()["data"], json!({ "secret": 1 }));
    server.delete(format!("/api/applications/{other}")).by(&root).send().await.ok();
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from sync_documents where application_id = $1) \
              + (select count(*) from sync_document_revisions where application_id = $1)",
    )
    .bind(&other)
    .fetch_one(&server.test.pool)
    .await
    .unwrap();
    assert_eq!(left, 0, "an application's documents go with it");
}

#[tokio::test]
async fn what_an_answer_means_may_be_asked_for() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({})).await;
    let merge = |value: &str| {
        let call = server.patch(format!("{ONE}/merge"), json!({ "data": {} })).by(&token);
        call.header("x-durability", value).send()
    };
    merge("committed").await.ok();
    merge("acknowledged").await.ok();
    assert_eq!(merge("soon").await.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "X-Durability");
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn documents_are_deleted_on_time_and_it_is_told() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let hour = 3_600_000;
    let now = event_router::now_ms();
    let new = json!({ "id": "one", "data": { "a": 1 }, "expiresAt": now + hour });
    let made = server.post(NOTES, new).by(&token).send().await.ok();
    assert_eq!(made["expiresAt"], json!(now + hour));
    let merge = json!({ "data": { "b": 1 }, "expiresAt": now + 2 * hour });
    let longer = server.patch(format!("{ONE}/merge"), merge).by(&token).send().await.ok();
    assert_eq!(longer["expiresAt"], json!(now + 2 * hour));
    let kept = server.put(ONE, json!({ "data": { "c": 1 } })).by(&token).send().await.ok();
    assert_eq!(kept["expiresAt"], json!(now + 2 * hour));
    server
        .post(NOTES, json!({ "id": "two", "data": {}, "expiresAt": now + hour }))
        .by(&token)
        .send()
        .await
        .ok();
    for (wrong, rule) in [
        (json!(now), "must lie in the future, in Unix milliseconds, and before the year 10000"),
        (
            json!(253_402_300_800_000_i64),
            "must lie in the future, in Unix milliseconds, and before the year 10000",
        ),
        (json!("soon"), "must be a whole number (invalid type: string)"),
    ] {
        let bad = server.put(ONE, json!({ "data": {}, "expiresAt": wrong })).by(&token).send().await;
        assert_eq!(
            bad.refused(400, "VALIDATION_FAILED")["details"],
            json!([{ "path": "expiresAt", "message": rule }])
        );
    }
    let never = json!({ "data": {}, "expiresAt": null });
    let never = server.put(format!("{NOTES}/two"), never).by(&token).send().await.ok();
    assert_eq!(never.get("expiresAt"), None);

    server.ahead_ms.store(3 * hour, Ordering::Relaxed);
    server.get(ONE).by(&token).send().await.refused(404, "NOT_FOUND");
    until("the deletion", async || !events(&server, &token, "sync.notes.deleted").await.is_empty()).await;
    let deleted = events(&server, &token, "sync.notes.deleted").await;
    assert_eq!(deleted.len(), 1);
    assert_eq!(
        (&deleted[0]["payload"]["documentId"], &deleted[0]["payload"]["revision"]),
        (&json!("one"), &json!(4))
    );
    server.get(format!("{NOTES}/two")).by(&token).send().await.ok();
}

#[tokio::test]
async fn an_id_whose_time_has_come_is_free_and_its_deletion_told_first() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    for round in 1..=5 {
        let ahead = server.ahead_ms.load(Ordering::Relaxed);
        let new = json!({ "id": "one", "data": {}, "expiresAt": event_router::now_ms() + ahead + 100_000 });
        let made = server.post(NOTES, new).by(&token).send().await.ok();
        assert_eq!(made["revision"], json!(2 * round - 1), "a deletion lies between two creations");
        server.ahead_ms.fetch_add(200_000, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn fifty_writers_all_count() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "n": 0, "by": {} })).await;
    let write = |writer: usize| {
        let (server, token) = (&server, &token);
        async move {
            for _ in 0..20 {
                let body = json!({ "mutations": [
                    { "op": "increment", "path": "/n", "value": 1 },
                    { "op": "increment", "path": format!("/by/{writer}"), "value": 1 },
                ] });
                server.post(format!("{ONE}/mutate"), body).by(token).send().await.ok();
            }
        }
    };
    futures::future::join_all((0..50).map(write)).await;
    let document = server.get(ONE).by(&token).send().await.ok();
    assert_eq!((&document["data"]["n"], &document["revision"]), (&json!(1_000), &json!(1_001)));
    let by = document["data"]["by"].as_object().unwrap();
    assert!(by.len() == 50 && by.values().all(|count| *count == json!(20)));
    let updated = events(&server, &token, "sync.notes.updated").await;
    let revisions: Vec<u64> =
        updated.iter().map(|event| event["payload"]["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, (502..=1_001).collect::<Vec<_>>(), "the last page of the history, in order");
}

#[tokio::test]
async fn a_database_that_takes_nothing_acknowledges_nothing() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "n": 0 })).await;
    let count = |answer: Answer| answer.ok()["data"]["n"].as_u64().unwrap();
    let tried = Cell::new(0);
    let increment = || {
        tried.set(tried.get() + 1);
        let body = json!({ "mutations": [{ "op": "increment", "path": "/n", "value": 1 }] });
        server.post(format!("{ONE}/mutate"), body).by(&token).header("x-durability", "committed").send()
    };
    let committed = async || {
        let data = "select data from sync_documents where id = 'one'";
        let data: String = sqlx::query_scalar(data).fetch_one(&server.test.pool).await.unwrap();
        serde_json::from_str::<Value>(&data).unwrap()["n"].as_u64().unwrap()
    };
    server
        .patch(format!("{ONE}/merge"), json!({ "data": {} }))
        .by(&token)
        .header("x-durability", "committed")
        .send()
        .await
        .ok();
    let read_only = async |on: &str| {
        let sql = format!("alter database \"{}\" set default_transaction_read_only = {on}", server.test.name);
        let mut connection = server.test.pool.acquire().await.unwrap();
        sqlx::raw_sql("set default_transaction_read_only = off").execute(&mut *connection).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and pid <> pg_backend_pid()";
        sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
        sqlx::Connection::close(connection.detach()).await.unwrap();
    };
    read_only("on").await;
    let mut refused = 0;
    for _ in 0..5 {
        let answer = increment().await;
        assert_eq!(answer.refused(503, "UNAVAILABLE")["error"], "UnavailableError");
        refused += 1;
    }
    assert_eq!((refused, committed().await), (5, 0));
    read_only("off").await;
    let mut acknowledged = 0;
    until("recovery", async || match increment().await {
        answer if answer.status == 200 => {
            acknowledged = count(answer);
            true
        }
        answer => {
            answer.refused(503, "UNAVAILABLE");
            false
        }
    })
    .await;
    // On Redis the writes wait there for the database, though nobody was told that they had been committed.
    let expected = if server.is_on_redis() { tried.get() } else { 1 };
    assert_eq!((acknowledged, committed().await), (expected, expected));
}
