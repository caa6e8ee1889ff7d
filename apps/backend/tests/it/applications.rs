//! Applications and what is set for them.

use crate::server::{Server, production};
use serde_json::{Value, json};
use shared_types::{AppId, Environment, Scope};

fn target(url: &str) -> Value {
    json!({ "config": { "cdc": { "staging": { "databaseUrl": url } } } })
}

#[tokio::test]
async fn applications_are_made_changed_and_removed() {
    let server = Server::start().await;
    let root = server.root().await;
    let made = server.post("/api/applications", json!({ "name": "Shop" })).by(&root).send().await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let path = format!("/api/applications/{}", made["id"].as_str().unwrap());
    assert_eq!(
        made["config"],
        json!({ "cdc": {}, "outbox": {}, "webhookNetworkPolicy": {}, "topicPolicy": {}, "allowedOrigins": {}, "limits": {} })
    );
    let change = json!({ "name": "Store", "config": {
        "topicPolicy": { "production": "registered" },
        "allowedOrigins": { "production": ["https://shop.example"] },
        "limits": { "production": { "subscriptions": 10 } },
    } });
    let changed = server.patch(&path, change).by(&root).send().await.ok();
    assert_eq!(
        (&changed["name"], &changed["config"]["limits"]),
        (&json!("Store"), &json!({ "production": { "subscriptions": 10 } }))
    );
    let removed = json!({ "config": { "limits": { "production": null } } });
    let changed = server.patch(&path, removed).by(&root).send().await.ok();
    assert_eq!(
        (&changed["config"]["limits"], &changed["config"]["topicPolicy"]),
        (&json!({}), &json!({ "production": "registered" }))
    );
    assert_eq!(server.get(&path).by(&root).send().await.ok(), changed);
    server.delete(&path).by(&root).send().await.ok();
    server.get(&path).by(&root).send().await.refused(404, "NOT_FOUND");
    server.delete("/api/applications/app_default").by(&root).send().await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn private_addresses_are_reached_only_where_a_super_admin_says_so() {
    let server = Server::start_with(|settings| {
        production(settings);
        settings.environment = Environment::Production;
    })
    .await;
    let root = server.root().await;
    let path = "/api/applications/app_default";
    for (part, host) in [("cdc", "10.0.0.5"), ("outbox", "169.254.169.254"), ("cdc", "[::ffff:127.0.0.1]")] {
        let url = format!("postgres://ann:word@{host}/shop");
        let change = json!({ "config": { part: { "staging": { "databaseUrl": url } } } });
        let refused = server.patch(path, change).by(&root).send().await.refused(400, "VALIDATION_FAILED");
        assert_eq!(refused["details"][0]["path"], format!("config.{part}.staging.databaseUrl"));
    }
    let allow = json!({ "config": { "webhookNetworkPolicy": { "staging": { "allowPrivate": true } } } });
    let token = server.token(&["admin"]).await;
    server.patch(path, allow.clone()).by(&token).send().await.refused(403, "FORBIDDEN");
    let changed = server.patch(path, allow).by(&root).send().await.ok();
    assert_eq!(changed["config"]["webhookNetworkPolicy"], json!({ "staging": { "allowPrivate": true } }));
    server.patch(path, target("postgres://ann:word@10.0.0.5/shop")).by(&root).send().await.ok();
    // Of another environment nothing was said.
    let elsewhere =
        json!({ "config": { "cdc": { "production": { "databaseUrl": "postgres://a:b@10.0.0.5/c" } } } });
    server.patch(path, elsewhere).by(&root).send().await.refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn a_databases_url_is_sealed_and_never_shown_whole() {
    let server = Server::start().await;
    let root = server.root().await;
    let url = "postgres://ann:s3cret-word@db.example:5433/shop?sslmode=require";
    let changed = server.patch("/api/applications/app_default", target(url)).by(&root).send().await;
    assert!(!changed.text.contains("s3cret-word"));
    let shown = changed.ok()["config"]["cdc"]["staging"]["databaseUrl"].as_str().unwrap().to_owned();
    assert_eq!(shown, "postgres://ann:****@db.example:5433/shop");
    let stored: String = sqlx::query_scalar("select config::text from applications where id = 'app_default'")
        .fetch_one(&server.test.pool)
        .await
        .unwrap();
    assert!(!stored.contains("s3cret-word") && !stored.contains("db.example"), "{stored}");
    let targets = database::tables::applications::with_cdc_targets(&server.test.pool, &server.state.sealer)
        .await
        .unwrap();
    let scope = Scope::new(AppId::from_stored("app_default"), Environment::Staging);
    let [target_of_staging] = &targets[..] else { panic!("one target: {targets:?}") };
    assert_eq!(target_of_staging.scope, scope);
    assert_eq!(target_of_staging.url.as_deref().unwrap(), url);
    assert_eq!(target_of_staging.manage_tables, None);
    let managed = json!({ "config": { "cdc": { "staging": { "databaseUrl": url, "manageTables": true } } } });
    let changed = server.patch("/api/applications/app_default", managed).by(&root).send().await;
    assert_eq!(changed.ok()["config"]["cdc"]["staging"]["manageTables"], true);
    server
        .patch("/api/applications/app_default", target(&shown))
        .by(&root)
        .send()
        .await
        .refused(400, "VALIDATION_FAILED");
}

#[tokio::test]
async fn bad_settings_name_field_and_rule() {
    let server = Server::start().await;
    let root = server.root().await;
    for (config, path) in [
        (
            json!({ "cdc": { "staging": { "databaseUrl": "mysql://a@b/c" } } }),
            "config.cdc.staging.databaseUrl",
        ),
        (
            json!({ "cdc": { "staging": { "databaseUrl": "postgres://a@/c?host=/tmp" } } }),
            "config.cdc.staging.databaseUrl",
        ),
        (json!({ "cdc": { "staging": { "url": "x" } } }), "config.cdc.staging.url"),
        (json!({ "cdc": { "test": null } }), "config.cdc"),
        (json!({ "topicPolicy": { "staging": "closed" } }), "config.topicPolicy.staging"),
        (
            json!({ "allowedOrigins": { "staging": ["https://a.example/path"] } }),
            "config.allowedOrigins.staging[0]",
        ),
        (json!({ "limits": { "staging": { "subscriptions": 0 } } }), "config.limits.staging.subscriptions"),
        (
            json!({ "limits": { "staging": { "subscriptions": 5_000_000_000_u64 } } }),
            "config.limits.staging.subscriptions",
        ),
        (json!({ "limits": { "staging": { "speed": 1 } } }), "config.limits.staging.speed"),
        (json!({ "colour": "red" }), "config.colour"),
    ] {
        let answer =
            server.patch("/api/applications/app_default", json!({ "config": config })).by(&root).send().await;
        let body = answer.refused(400, "VALIDATION_FAILED");
        let named = body["details"][0]["path"].as_str().unwrap();
        assert!(named.starts_with(path), "{named} for {path}: {body}");
    }
}

#[tokio::test]
async fn the_platforms_own_database_is_no_target_outside_development() {
    let server = Server::start_with(production).await;
    let root = server.root().await;
    let own = server.state.http.platform_database_url.clone();
    let body = server
        .patch("/api/applications/app_default", target(&own))
        .by(&root)
        .send()
        .await
        .refused(400, "VALIDATION_FAILED");
    assert!(body["message"].as_str().unwrap().contains("platform's own database"));
}
