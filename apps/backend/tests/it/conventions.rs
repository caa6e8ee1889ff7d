//! What holds for every route: the one shape of failures, ids, pages, CORS, limits, repeats.

use crate::server::Server;
use axum::http::Method;
use serde_json::json;

fn topic(name: &str) -> serde_json::Value {
    json!({ "name": name, "description": "d", "owner": "o" })
}

#[tokio::test]
async fn failures_have_one_shape_wherever_they_come_from() {
    let server = Server::start().await;
    let root = server.root().await;
    server.get("/api/nothing").send().await.refused(404, "ROUTE_NOT_FOUND");
    let wrong_method = server.call(Method::PUT, "/api/topics").by(&root).send().await;
    assert!(
        wrong_method.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("POST"))
    );
    assert_eq!(wrong_method.refused(405, "METHOD_NOT_ALLOWED")["error"], "ValidationError");
    let no_type = server.call(Method::POST, "/api/topics").by(&root).send().await;
    assert_eq!(no_type.refused(415, "UNSUPPORTED_MEDIA_TYPE")["error"], "ValidationError");
    for text in ["", "{", "{\"name\":}", "\u{feff}{}", "nonsense"] {
        let call = server.call(Method::POST, "/api/topics").by(&root).text(text);
        call.send().await.refused(400, "INVALID_JSON");
    }
    let deep = format!("{{\"name\":{}1{}}}", "[".repeat(120), "]".repeat(120));
    server.call(Method::POST, "/api/topics").by(&root).text(deep).send().await.refused(400, "TOO_DEEP");
    let nul = r#"{"name":"a.b","description":"\u0000","owner":"o"}"#;
    server.call(Method::POST, "/api/topics").by(&root).text(nul).send().await.refused(400, "INVALID_TEXT");
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(1024 * 1024));
    let answer = server.call(Method::POST, "/api/topics").by(&root).text(large).send().await;
    let refused = answer.refused(413, "LIMIT_EXCEEDED");
    assert_eq!(refused["error"], "PayloadTooLargeError");
    assert_eq!(refused["message"], "the body may have 1048576 bytes");
    let nul = r#"{"name":"a.b","description":"d","owner":["o",{"deep":"\u0000"}]}"#;
    let answer = server.call(Method::POST, "/api/topics").by(&root).text(nul).send().await;
    assert_eq!(answer.refused(400, "INVALID_TEXT")["details"][0]["path"], "owner[1].deep");
    for path in ["/api/topics/%00", "/api/topics/%ff", "/api/applications/%0a", "/api/database/mappings/%00"]
    {
        server.get(path).by(&root).send().await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let server = Server::start().await;
    let own = server.get("/health").send().await;
    assert!(own.header("x-request-id").unwrap().starts_with("req_"));
    let given = server.get("/api/topics").header("x-request-id", "trace-7").send().await;
    assert_eq!(given.header("x-request-id"), Some("trace-7"));
    assert_eq!(given.refused(401, "AUTH_REQUIRED")["requestId"], "trace-7");
    let bad = server.get("/health").header("x-request-id", "a b\"").send().await;
    assert!(bad.header("x-request-id").unwrap().starts_with("req_"));
}

#[tokio::test]
async fn lists_are_paged() {
    let server = Server::start().await;
    let root = server.root().await;
    for name in ["a.1", "a.2", "a.3"] {
        server.post("/api/topics", topic(name)).by(&root).send().await.ok();
    }
    let first = server.get("/api/topics?limit=2").by(&root).send().await;
    let cursor = first.header("x-next-cursor").unwrap().to_owned();
    let link = first.header("link").unwrap().to_owned();
    assert_eq!(link, format!("</api/topics?limit=2&cursor={cursor}>; rel=\"next\""));
    assert_eq!(first.ok().as_array().unwrap().len(), 2);
    let second = server.get(format!("/api/topics?limit=2&cursor={cursor}")).by(&root).send().await;
    assert_eq!(second.header("x-next-cursor"), None);
    assert_eq!(second.ok()[0]["name"], "a.3");
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999", "limit"),
        ("limit=many", "limit"),
        ("cursor=%21", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("page=2", "page"),
    ] {
        let body = server
            .get(format!("/api/topics?{query}"))
            .by(&root)
            .send()
            .await
            .refused(400, "VALIDATION_FAILED");
        assert_eq!(body["details"][0]["path"], field, "{query}: {body}");
        if field == "limit" {
            let rule = body["details"][0]["message"].as_str().unwrap();
            assert!(rule.starts_with("must be ") || rule == "is too large", "{rule}");
        }
    }
}

#[tokio::test]
async fn a_creating_request_is_carried_out_once() {
    let server = Server::start().await;
    let (root, other) = (server.root().await, server.root().await);
    let create = |who: &str, key: &str, body| {
        server.post("/api/applications", body).by(who).header("idempotency-key", key).send()
    };
    let first = create(&root, "k1", json!({ "name": "One" })).await;
    assert_eq!(first.status, 201);
    let again = create(&root, "k1", json!({ "name": "One" })).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(first.json(), again.json());
    create(&root, "k1", json!({ "name": "Two" })).await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    let others = create(&other, "k1", json!({ "name": "Two" })).await;
    assert_ne!(others.ok()["id"], first.json()["id"], "keys are each caller's own");
    create(&root, &"x".repeat(256), json!({ "name": "One" })).await.refused(400, "VALIDATION_FAILED");

    // Of two at the same time the second waits for the first.
    let both =
        futures::future::join_all((0..4).map(|_| create(&root, "k2", json!({ "name": "Three" })))).await;
    let ids: std::collections::HashSet<String> = both.into_iter().map(|a| a.ok()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);

    // A refused request leaves nothing behind.
    server.post("/api/topics", topic("a.b")).by(&root).header("idempotency-key", "k3").send().await.ok();
    server
        .post("/api/topics", topic("a.b"))
        .by(&root)
        .header("idempotency-key", "k4")
        .send()
        .await
        .refused(409, "CONFLICT");
    server.delete("/api/topics/a.b").by(&root).send().await.ok();
    server.post("/api/topics", topic("a.b")).by(&root).header("idempotency-key", "k4").send().await.ok();
}

#[tokio::test]
async fn a_repeat_is_answered_without_secrets_and_none_is_stored() {
    let server = Server::start().await;
    let root = server.root().await;
    let path = "/api/applications/app_default/api-keys";
    let create = || {
        let body = json!({ "environment": "development", "name": "shop" });
        server.post(path, body).by(&root).header("idempotency-key", "k").send()
    };
    let first = create().await.ok();
    let again = create().await.ok();
    assert_eq!(first["id"], again["id"]);
    assert!(again.get("key").is_none());
    let secret = first["key"].as_str().unwrap().rsplit('_').next().unwrap().to_owned();
    let stored: i64 =
        sqlx::query_scalar("select count(*) from idempotency_records where response like '%' || $1 || '%'")
            .bind(secret)
            .fetch_one(&server.test.pool)
            .await
            .unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn cors_follows_the_configuration() {
    let server = Server::start().await;
    let preflight = |origin: &str| {
        server
            .call(Method::OPTIONS, "/api/topics")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,x-environment")
            .send()
    };
    let local = preflight("http://localhost:5173").await;
    assert_eq!(local.header("access-control-allow-origin"), Some("http://localhost:5173"));
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), None);
    let failed = server.get("/api/topics").header("origin", "http://localhost:5173").send().await;
    assert_eq!(failed.header("access-control-allow-origin"), Some("http://localhost:5173"), "failures too");
    failed.refused(401, "AUTH_REQUIRED");
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = Server::start().await;
    assert_eq!(server.get("/health").send().await.ok(), json!({ "status": "ok" }));
    assert_eq!(server.get("/ready").send().await.ok()["status"], "ready");
    for path in ["/metrics", "/api/metrics/prometheus"] {
        let answer = server.get(path).send().await;
        assert_eq!(answer.status, 200);
        assert!(answer.text.contains("# TYPE"), "{}", answer.text);
    }
    let root = server.root().await;
    assert_eq!(server.get("/api/socket/connections").by(&root).send().await.ok(), json!({ "count": 0 }));

    // A growing backlog is said, and takes nobody out of service.
    let backlog = |answer: &serde_json::Value| {
        let parts = answer["parts"].as_array().unwrap();
        parts.iter().find(|part| part["name"] == "event_log").unwrap().clone()
    };
    assert_eq!(backlog(&server.get("/ready").send().await.ok()), json!({ "name": "event_log", "ok": true }));
    server.state.metrics.log_backlog_ratio.set(0.634);
    let behind = backlog(&server.get("/ready").send().await.ok());
    assert_eq!(behind["ok"], true);
    assert!(behind["message"].as_str().unwrap().contains("63 %"), "{behind}");
    server.state.draining.store(true, std::sync::atomic::Ordering::Release);
    let stopping = server.get("/ready").send().await;
    assert_eq!(stopping.status, 503);
    assert!(stopping.text.contains("stopping"));
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let server = Server::start().await;
    database::migrate::rollback(&server.test.pool).await.unwrap();
    let pending = server.get("/ready").send().await;
    assert_eq!(pending.status, 503);
    let parts = pending.json()["parts"].clone();
    let missing: Vec<&str> = parts
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["ok"] == false)
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    assert_eq!(missing, ["migrations"]);
    server.test.pool.close().await;
    let gone = server.get("/ready").send().await;
    assert_eq!(gone.status, 503);
    assert!(gone.json()["parts"][0]["message"].as_str().unwrap().contains("does not answer"));
    assert_eq!(server.get("/health").send().await.status, 200);
    let root = "sess_whatever";
    let refused = server.get("/api/topics").by(root).send().await;
    assert!(refused.header("retry-after").is_some());
    refused.refused(503, "UNAVAILABLE");
}

#[tokio::test]
async fn one_callers_requests_a_minute_are_limited() {
    let server = Server::start_with(|http| http.requests_per_minute = Some(6)).await;
    let root = server.root().await;
    let mut answers = Vec::new();
    // A minute may turn meanwhile, which lets a few more through.
    while answers.len() < 20 {
        answers.push(server.get("/api/topics").by(&root).send().await);
        if answers.last().is_some_and(|answer| answer.status.as_u16() == 429) {
            break;
        }
    }
    let refused = answers.pop().unwrap();
    assert!((4..=13).contains(&answers.len()), "{}", answers.len());
    assert!(answers.iter().all(|answer| answer.status.is_success()));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(refused.refused(429, "LIMIT_EXCEEDED")["error"], "RateLimitError");
    server.get("/health").send().await.ok();
}
