//! Outboxes of applications: sealed, owned by one scope, and how they stand.

use crate::server::Server;
use ::database::tables::outbox::{self, Seen, Trouble};
use serde_json::{Value, json};
use shared_types::{AppId, Environment, Scope};

const URL: &str = "postgres://ann:s3cret-word@db.example:5433/shop?sslmode=require";
const DEFAULT: &str = "/api/applications/app_default";

fn outbox_of(environment: &str, url: Option<&str>) -> Value {
    json!({ "config": { "outbox": { environment: url.map(|url| json!({ "databaseUrl": url })) } } })
}

#[tokio::test]
async fn an_outboxs_url_is_sealed_and_never_shown_whole() {
    let server = Server::start().await;
    let root = server.root().await;
    let changed = server.patch(DEFAULT, outbox_of("staging", Some(URL))).by(&root).send().await;
    assert!(!changed.text.contains("s3cret-word"));
    let shown = json!({ "staging": { "databaseUrl": "postgres://ann:****@db.example:5433/shop" } });
    assert_eq!(changed.ok()["config"]["outbox"], shown);
    let stored: String = sqlx::query_scalar("select config::text from applications where id = 'app_default'")
        .fetch_one(&server.test.pool)
        .await
        .unwrap();
    assert!(!stored.contains("s3cret-word") && !stored.contains("db.example"), "{stored}");
    let removed = server.patch(DEFAULT, outbox_of("staging", None)).by(&root).send().await.ok();
    assert_eq!(removed["config"]["outbox"], json!({}));
}

#[tokio::test]
async fn an_outbox_has_one_owner() {
    let server = Server::start().await;
    let root = server.root().await;
    server.patch(DEFAULT, outbox_of("staging", Some(URL))).by(&root).send().await.ok();
    let same = ["postgres://bob:x@DB.example:5433/shop", URL];
    let made = server.post("/api/applications", json!({ "name": "Other" })).by(&root).send().await.ok();
    let other = format!("/api/applications/{}", made["id"].as_str().unwrap());
    for url in same {
        for (path, environment) in [(DEFAULT, "production"), (&*other, "staging")] {
            let answer = server.patch(path, outbox_of(environment, Some(url))).by(&root).send().await;
            let body = answer.refused(409, "CONFLICT");
            let field = format!("config.outbox.{environment}.databaseUrl");
            assert_eq!(body["details"][0]["path"], field, "{body}");
            assert!(!body.to_string().contains("app_default"), "nothing of who else has it: {body}");
        }
        let mut new = outbox_of("development", Some(url));
        new["name"] = json!("Third");
        server.post("/api/applications", new).by(&root).send().await.refused(409, "CONFLICT");
    }
    // The same again is no second; another database is another; and what was given up is free.
    server.patch(DEFAULT, outbox_of("staging", Some(URL))).by(&root).send().await.ok();
    let elsewhere = "postgres://ann:x@db.example:5433/another";
    server.patch(&other, outbox_of("staging", Some(elsewhere))).by(&root).send().await.ok();
    server.patch(DEFAULT, outbox_of("staging", None)).by(&root).send().await.ok();
    server.patch(&other, outbox_of("production", Some(URL))).by(&root).send().await.ok();
}

#[tokio::test]
async fn bad_outboxes_name_field_and_rule() {
    let server = Server::start().await;
    let root = server.root().await;
    let own = server.state.http.platform_database_url.clone();
    for (config, rule) in [
        (outbox_of("staging", Some("mysql://a@b/c")), "must begin with"),
        (outbox_of("staging", Some("postgres://a@/c?host=/tmp")), ""),
        (outbox_of("staging", Some("postgres://ann:****@db.example/shop")), "masked"),
        (outbox_of("staging", Some(&own)), "platform's own database"),
        (json!({ "config": { "outbox": { "staging": { "url": "x" } } } }), ""),
    ] {
        let body = server.patch(DEFAULT, config).by(&root).send().await.refused(400, "VALIDATION_FAILED");
        let path = body["details"][0]["path"].as_str().unwrap();
        assert!(path.starts_with("config.outbox.staging"), "{body}");
        assert!(body["message"].as_str().unwrap().contains(rule), "{rule}: {body}");
    }
}

#[tokio::test]
async fn how_an_outbox_stands_is_told_to_its_scope() {
    let server = Server::start().await;
    let root = server.root().await;
    let status = "/api/database/outbox/status";
    let none = server.get(status).by(&root).send().await.ok();
    assert_eq!((&none["configured"], &none["state"]), (&json!(false), &json!("stopped")));
    server.patch(DEFAULT, outbox_of("development", Some(URL))).by(&root).send().await.ok();
    assert_eq!(server.get(status).by(&root).send().await.ok()["state"], "waiting");

    let scope = Scope::new(AppId::from_stored("app_default"), Environment::Development);
    let halted = ["order.placed".to_owned()];
    let seen = Seen::Read { pending: 7, oldest_ms: Some(1_700_000_000_123), halted: &halted };
    outbox::show(&server.test.pool, Some(&scope), &seen).await.unwrap();
    let reading = server.get(status).by(&root).send().await.ok();
    assert_eq!((&reading["state"], &reading["pending"]), (&json!("reading"), &json!(7)));
    assert_eq!(
        (&reading["oldestAt"], &reading["halted"]),
        (&json!(1_700_000_000_123_i64), &json!(["order.placed"]))
    );
    assert_eq!(reading.get("code"), None);

    let seen = Seen::Troubled(Trouble { code: "NO_TABLE", message: "there is none", cure: "make one" });
    outbox::show(&server.test.pool, Some(&scope), &seen).await.unwrap();
    let troubled = server.get(status).by(&root).send().await.ok();
    assert_eq!((&troubled["state"], &troubled["code"]), (&json!("troubled"), &json!("NO_TABLE")));
    for shown in ["pending", "oldestAt", "halted"] {
        assert_eq!(troubled[shown], reading[shown], "as it was last seen");
    }
    let age = "update outbox_status set updated_at = updated_at - interval '31 seconds'";
    sqlx::query(age).execute(&server.test.pool).await.unwrap();
    assert_eq!(server.get(status).by(&root).send().await.ok()["state"], "waiting");
    let other = server.get(status).header("x-environment", "production").by(&root).send().await.ok();
    assert_eq!(other["state"], "stopped");
}
