//! Versions and promotion of mappings, subscriptions, what became of row changes, and the preflight.

use crate::server::Server;
use auth::Role;
use axum::http::Method;
use database::tables::{
    cdc::{self, MappingState, MappingStatus, ReaderState, ReaderStatus, StatusWriter},
    cdc_events::{self, NewCdcEvent, Outcome, Verdict},
};
use serde_json::{Value, json};
use shared_types::{AppId, Environment, MappingId, Operation, Scope};

fn mapping() -> Value {
    json!({ "table": "orders", "topic": "order.changed", "events": ["insert"], "payload": { "id": "$row.id" } })
}

async fn made(server: &Server, by: &str) -> String {
    let made = server.post("/api/database/mappings", mapping()).by(by).send().await.ok();
    made["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_mapping_is_promoted_from_environment_to_environment() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let id = made(&server, &editor).await;
    let path = format!("/api/database/mappings/{id}");
    server.patch(&path, json!({ "topic": "order.new" })).by(&editor).send().await.ok();
    let promote = |from: &str| {
        server.post(format!("{path}/promote"), json!({ "environment": from })).by(&editor).send()
    };
    promote("staging").await.refused(404, "NOT_FOUND");
    let first = promote("development").await.ok();
    assert_eq!((&first["to"], &first["change"]), (&json!("staging"), &json!("created")));
    assert_eq!((&first["mapping"]["version"], &first["mapping"]["active"]), (&json!(2), &json!(true)));
    assert_eq!(promote("development").await.ok()["change"], "unchanged");
    assert_eq!(promote("staging").await.ok()["to"], "production");
    promote("production").await.refused(409, "NOTHING_AFTER_PRODUCTION");
    promote("nowhere").await.refused(400, "VALIDATION_FAILED");

    server.patch(&path, json!({ "events": ["insert", "update"] })).by(&editor).send().await.ok();
    let grid = server.get("/api/database/mappings/status").by(&editor).send().await.ok();
    let environments = &grid[0]["environments"];
    assert_eq!((&grid[0]["id"], &grid[0]["table"]), (&json!(id), &json!("orders")));
    assert_eq!(environments["development"], json!({ "version": 3, "active": true, "behind": false }));
    assert_eq!(environments["staging"], json!({ "version": 2, "active": true, "behind": true }));
    assert_eq!(environments["production"]["behind"], false);
    let changed = promote("development").await.ok();
    assert_eq!((&changed["change"], &changed["mapping"]["version"]), (&json!("changed"), &json!(3)));
    let versions = server
        .get(format!("{path}/versions"))
        .header("x-environment", "staging")
        .by(&editor)
        .send()
        .await
        .ok();
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert_eq!((&versions[0]["version"], &versions[0]["promotedFrom"]), (&json!(3), &json!("development")));
    // A key belongs to one environment.
    let key = server.api_key(&["admin"]).await;
    let by_key = server.post(format!("{path}/promote"), json!({})).by(&key).send().await;
    by_key.refused(403, "SCOPE_MISMATCH");
    let seen = server.get("/api/database/mappings/status").by(&key).send().await.ok();
    assert_eq!(seen[0]["environments"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn versions_are_kept_and_made() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let id = made(&server, &editor).await;
    let path = format!("/api/database/mappings/{id}/versions");
    let kept = server.post(&path, json!({ "environment": "development" })).by(&editor).send().await;
    assert_eq!(kept.status, 201);
    let kept = kept.ok();
    assert_eq!((&kept["version"], &kept["definition"]["topic"]), (&json!(2), &json!("order.changed")));
    let first = server.get(format!("{path}?limit=1")).by(&editor).send().await;
    let cursor = first.header("x-next-cursor").unwrap().to_owned();
    assert_eq!(first.ok()[0]["version"], 2);
    let second = server.get(format!("{path}?limit=1&cursor={cursor}")).by(&editor).send().await;
    assert!(second.header("x-next-cursor").is_none());
    assert_eq!(second.ok()[0]["version"], 1);
    server.get(format!("{path}?cursor=eA")).by(&editor).send().await.refused(400, "VALIDATION_FAILED");
    server.get("/api/database/mappings/map_none/versions").by(&editor).send().await.refused(404, "NOT_FOUND");
    server
        .post(&path, json!({ "environment": 1 }))
        .by(&editor)
        .send()
        .await
        .refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn resync_is_set_beside_the_definition() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let mut body = mapping();
    body["resync"] = json!(true);
    let made = server.post("/api/database/mappings", body).by(&editor).send().await.ok();
    assert_eq!(made["resync"], true);
    let path = format!("/api/database/mappings/{}", made["id"].as_str().unwrap());
    let changed = server.patch(&path, json!({ "resync": false })).by(&editor).send().await.ok();
    assert_eq!((&changed["resync"], &changed["version"]), (&json!(false), &json!(1)));
    assert_eq!(server.get(&path).by(&editor).send().await.ok()["resync"], false);
    server.patch(&path, json!({ "resync": "no" })).by(&editor).send().await.refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn subscriptions_come_with_mappings_and_are_switched() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let id = made(&server, &editor).await;
    let list = server.get("/api/database/subscriptions").by(&editor).send().await.ok();
    assert_eq!((&list[0]["mappingId"], &list[0]["active"]), (&json!(id), &json!(true)));
    let again =
        server.post("/api/database/subscriptions", json!({ "mappingId": id })).by(&editor).send().await;
    assert_eq!(again.status, 201);
    let again = again.ok();
    assert_eq!(again["id"], list[0]["id"], "a mapping has one subscription");
    let path = format!("/api/database/subscriptions/{}", again["id"].as_str().unwrap());
    let post = |path: String| server.call(Method::POST, path).by(&editor).send();
    assert_eq!(post(format!("{path}/deactivate")).await.ok()["active"], false);
    let mapping = server.get(format!("/api/database/mappings/{id}")).by(&editor).send().await.ok();
    assert_eq!(mapping["active"], false);
    assert_eq!(post(format!("{path}/activate")).await.ok()["active"], true);
    post("/api/database/subscriptions/sub_none/activate".to_owned()).await.refused(404, "NOT_FOUND");
    let none = json!({ "mappingId": "map_none" });
    server.post("/api/database/subscriptions", none).by(&editor).send().await.refused(404, "NOT_FOUND");
    server
        .post("/api/database/subscriptions", json!({}))
        .by(&editor)
        .send()
        .await
        .refused(400, "VALIDATION_FAILED");
}

fn event(ordinal: u64, environment: Environment, outcome: Outcome) -> NewCdcEvent {
    NewCdcEvent {
        scope: Scope::new(AppId::from_stored("app_default"), environment),
        source: "s".into(),
        lsn: 0x1_0000_00AB,
        ordinal,
        table: "orders".parse().unwrap(),
        operation: Operation::Update,
        key: Some(format!("{{\"id\":{ordinal}}}")),
        results: vec![Verdict {
            mapping: MappingId::from_stored("map_1"),
            outcome,
            topic: None,
            event_id: None,
            reason: Some("when: the condition does not hold".into()),
        }],
        commit_ms: 1_700_000_000_123,
    }
}

#[tokio::test]
async fn what_became_of_row_changes_is_listed_by_scope() {
    let server = Server::start().await;
    let viewer = server.person(Role::Viewer, None).await;
    let events = [
        event(1, Environment::Development, Outcome::Filtered),
        event(2, Environment::Development, Outcome::Failed),
        event(3, Environment::Staging, Outcome::Filtered),
    ];
    cdc_events::record(&server.test.pool, &events).await.unwrap();
    assert_eq!(cdc_events::record(&server.test.pool, &events).await.unwrap(), 0, "each once");
    let path = "/api/database/cdc/events";
    let first = server.get(format!("{path}?limit=1&table=orders")).by(&viewer).send().await;
    let cursor = first.header("x-next-cursor").unwrap().to_owned();
    assert!(first.header("link").unwrap().contains("table=orders"));
    let first = first.ok();
    assert_eq!((&first[0]["key"], &first[0]["lsn"]), (&json!({ "id": 2 }), &json!("1/AB")));
    assert_eq!(
        (&first[0]["outcome"], &first[0]["timestamp"]),
        (&json!("failed"), &json!(1_700_000_000_123_i64))
    );
    let second = server.get(format!("{path}?cursor={cursor}")).by(&viewer).send().await.ok();
    assert_eq!(second.as_array().unwrap().len(), 1);
    let count = async |query: &str| {
        let list = server.get(format!("{path}?{query}")).by(&viewer).send().await.ok();
        list.as_array().unwrap().len()
    };
    assert_eq!(count("outcome=filtered").await, 1);
    assert_eq!(count("operation=insert").await, 0);
    assert_eq!(count("mappingId=map_1").await, 2);
    assert_eq!(count("mappingId=map_2").await, 0);
    let logs =
        server.get("/api/database/subscriptions/logs?event=database.update").by(&viewer).send().await.ok();
    assert_eq!(logs.as_array().unwrap().len(), 2);
    for wrong in ["outcome=lost", "operation=truncate", "limit=0", "cursor=x", "colour=red"] {
        let refused = server.get(format!("{path}?{wrong}")).by(&viewer).send().await;
        refused.refused(400, "VALIDATION_FAILED");
    }
    let mut gone = event(5, Environment::Development, Outcome::Failed);
    gone.scope = Scope::new(AppId::from_stored("app_gone"), Environment::Development);
    let more = [events[1].clone(), event(4, Environment::Development, Outcome::Failed), gone];
    assert_eq!(
        cdc_events::record(&server.test.pool, &more).await.unwrap(),
        1,
        "only what is new and somebody's"
    );
    let two = server.get(format!("{path}?outcome=failed&limit=2")).by(&viewer).send().await.ok();
    assert_eq!((&two[0]["ordinal"], &two[1]["ordinal"]), (&json!(4), &json!(2)));
    let wrong = server.get("/api/database/subscriptions/logs?event=orders").by(&viewer).send().await;
    wrong.refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn a_backfill_is_asked_for_shown_and_ended() {
    let server = Server::start().await;
    let editor = server.person(Role::Editor, None).await;
    let id = made(&server, &editor).await;
    let path = format!("/api/database/mappings/{id}/backfill");
    let message = |refused: Value| refused["message"].clone();
    let never = server.get(&path).by(&editor).send().await.refused(404, "NOT_FOUND");
    assert_eq!(message(never), format!("mapping {id} has had no backfill yet: POST asks for one"));
    let asked = server.call(Method::POST, &path).by(&editor).send().await;
    assert_eq!(asked.status, 202);
    let asked = asked.ok();
    assert_eq!(
        (&asked["state"], &asked["rowsSent"], &asked["reason"]),
        (&json!("pending"), &json!(0), &json!("requested"))
    );
    assert_eq!(server.get(&path).by(&editor).send().await.ok(), asked);
    server.call(Method::POST, &path).by(&editor).send().await.refused(409, "BACKFILL_UNDER_WAY");
    assert_eq!(server.delete(&path).by(&editor).send().await.ok()["state"], "cancelled");
    let ended = server.delete(&path).by(&editor).send().await.refused(404, "NOT_FOUND");
    assert_eq!(message(ended), format!("no backfill of mapping {id} is under way"));
    let subscriptions = server.get("/api/database/subscriptions").by(&editor).send().await.ok();
    let off = format!("/api/database/subscriptions/{}/deactivate", subscriptions[0]["id"].as_str().unwrap());
    server.call(Method::POST, off).by(&editor).send().await.ok();
    server.call(Method::POST, &path).by(&editor).send().await.refused(409, "MAPPING_INACTIVE");
    let none = "/api/database/mappings/map_none/backfill";
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let missing = server.call(method, none).by(&editor).send().await.refused(404, "NOT_FOUND");
        assert_eq!(message(missing), "mapping not found: map_none");
    }
}

#[tokio::test]
async fn the_preflight_says_what_is_missing() {
    let server = Server::start().await;
    let root = server.root().await;
    let check = || server.call(Method::POST, "/api/database/cdc/check").by(&root).send();
    let none = check().await.ok();
    assert_eq!((&none["ok"], &none["findings"][0]["code"]), (&json!(false), &json!("NOT_CONFIGURED")));
    let status = server.get("/api/database/cdc/status").by(&root).send().await.ok();
    assert_eq!(status["code"], "NOT_CONFIGURED");
    let target = testkit::empty_database().await;
    let config = json!({ "config": { "cdc": { "development": { "databaseUrl": target.url } } } });
    server.patch("/api/applications/app_default", config).by(&root).send().await.ok();
    made(&server, &root).await;
    let found = check().await.ok();
    assert_eq!(found["ok"], false);
    let missing =
        found["findings"].as_array().unwrap().iter().find(|f| f["code"] == "TABLE_MISSING").unwrap();
    assert_eq!((&missing["table"], &missing["severity"]), (&json!("orders"), &json!("error")));
    sqlx::query("create table orders (id int primary key)").execute(&target.pool).await.unwrap();
    assert_eq!(check().await.ok()["ok"], true);
    // One environment that names the same database and forbids its reader to change it is enough.
    let both = json!({ "config": { "cdc": {
        "development": { "databaseUrl": target.url }, "staging": { "databaseUrl": target.url } } } });
    server.patch("/api/applications/app_default", both).by(&root).send().await.ok();
    let found = check().await.ok();
    let codes: Vec<_> = found["findings"].as_array().unwrap().iter().map(|f| &f["code"]).collect();
    assert!(codes.contains(&&json!("PUBLICATION_MISSING")), "{found}");
    assert_eq!(found["ok"], false);
    let status = server.get("/api/database/cdc/status").by(&root).send().await.ok();
    assert_eq!((&status["configured"], &status["code"]), (&json!(true), &json!("NO_WORKER")));
}

#[tokio::test]
async fn a_target_that_is_told_to_stop_is_stopped_at_once() {
    let server = Server::start().await;
    let root = server.root().await;
    let config = json!({ "config": { "cdc": { "development": { "databaseUrl": "postgres://me:x@db.example/shop" } } } });
    server.patch("/api/applications/app_default", config).by(&root).send().await.ok();
    let scope = Scope::new(AppId::from_stored("app_default"), Environment::Development);
    let said = async |state, code: Option<&str>, message: &str| {
        let (code, message) = (code.map(str::to_owned), Some(message.to_owned()));
        let said = ReaderStatus { state, code, message, ..ReaderStatus::default() };
        cdc::write_status(&server.state.pool, &scope, StatusWriter::Leader, &said).await.unwrap();
    };
    said(ReaderState::Error, Some("UNREACHABLE"), "the target database does not answer").await;
    let stopped = server.call(Method::POST, "/api/database/cdc/stop").by(&root).send().await.ok();
    assert_eq!(
        (&stopped["state"], &stopped["code"], &stopped["message"]),
        (&json!("stopped"), &json!("STOPPED"), &json!("it was told to stop"))
    );
    // The reader knows more.
    said(ReaderState::Stopped, Some("STOPPED"), "it was told to stop; its slot …").await;
    let status = server.get("/api/database/cdc/status").by(&root).send().await.ok();
    assert_eq!(status["message"], "it was told to stop; its slot …");
}

#[tokio::test]
async fn every_active_mapping_is_in_the_status_whatever_the_reader_has_said() {
    let server = Server::start().await;
    let root = server.root().await;
    let (first, second) = (made(&server, &root).await, made(&server, &root).await);
    let states = async || {
        let status = server.get("/api/database/cdc/status").by(&root).send().await.ok();
        let state = |m: &Value| (m["mappingId"].as_str().unwrap().to_owned(), m["state"].clone());
        status["mappings"].as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    let pending = |id: &String| (id.clone(), json!("pending"));
    assert_eq!(states().await, [pending(&first), pending(&second)]);
    let live = |mapping_id: &str| MappingStatus {
        mapping_id: mapping_id.to_owned(),
        table: "orders".to_owned(),
        state: MappingState::Live,
        ..MappingStatus::default()
    };
    let said = ReaderStatus { mappings: vec![live("map_gone"), live(&second)], ..ReaderStatus::default() };
    let scope = Scope::new(AppId::from_stored("app_default"), Environment::Development);
    cdc::write_status(&server.state.pool, &scope, StatusWriter::Leader, &said).await.unwrap();
    assert_eq!(states().await, [pending(&first), (second.clone(), json!("live"))]);
    // What was said of another table says nothing of this one.
    let moved = json!({ "table": "invoices" });
    server.patch(format!("/api/database/mappings/{second}"), moved).by(&root).send().await.ok();
    assert_eq!(states().await, [pending(&first), pending(&second)]);
}
