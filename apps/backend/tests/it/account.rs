//! The first person, signing in and out, cookies and sessions.

use crate::server::{Server, production};
use auth::Role;
use futures::future::join_all;
use serde_json::json;

fn ada() -> serde_json::Value {
    json!({ "name": "Ada", "email": "ada@example.com", "password": "correct horse" })
}

#[tokio::test]
async fn from_setup_to_logout() {
    let server = Server::start().await;
    let status = server.get("/api/auth/setup-status").send().await;
    assert_eq!(status.ok(), json!({ "setupRequired": true }));
    let started = server.post("/api/auth/setup", ada()).send().await;
    assert_eq!(started.status, 201);
    let cookie = started.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    assert_eq!(server.get("/api/auth/setup-status").send().await.ok()["setupRequired"], false);
    server.post("/api/auth/setup", ada()).send().await.refused(409, "SETUP_DONE");

    server
        .post("/api/auth/login", json!({ "email": "ada@example.com", "password": "wrong horse" }))
        .send()
        .await
        .refused(401, "LOGIN_FAILED");
    let login =
        server.post("/api/auth/login", json!({ "email": "ADA@example.com", "password": "correct horse" }));
    let session = login.send().await.ok();
    let token = session["sessionToken"].as_str().unwrap();
    assert!(token.starts_with("sess_"));
    assert_eq!(session["user"]["email"], "ada@example.com");

    for call in [
        server.get("/api/auth/me").by(token),
        server.get("/api/auth/me").header("x-session-token", token),
        server.get("/api/auth/me").header("authorization", token),
    ] {
        let me = call.send().await.ok();
        assert_eq!((&me["name"], &me["roles"]), (&json!("Ada"), &json!([{ "role": "super_admin" }])));
        assert_eq!(me["permissions"].as_array().unwrap().len(), 48);
        assert_eq!(me["csrfToken"], session["csrfToken"]);
    }
    let sessions = server.get("/api/auth/sessions").by(token).send().await.ok();
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    let other = sessions.as_array().unwrap().iter().find(|s| s["current"] == false).unwrap();
    server
        .delete(format!("/api/auth/sessions/{}", other["id"].as_str().unwrap()))
        .by(token)
        .send()
        .await
        .ok();

    server.call(axum::http::Method::POST, "/api/auth/logout").by(token).send().await.ok();
    server.get("/api/auth/me").by(token).send().await.refused(401, "SESSION_EXPIRED");
}

#[tokio::test]
async fn setup_at_once_makes_one_person() {
    let server = Server::start().await;
    let calls = (0..6).map(|n| {
        let person =
            json!({ "name": "A", "email": format!("a{n}@example.com"), "password": "correct horse" });
        server.post("/api/auth/setup", person).send()
    });
    let mut statuses: Vec<u16> = join_all(calls).await.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
}

#[tokio::test]
async fn production_asks_for_the_printed_code() {
    let server = Server::start_with(production).await;
    let status = server.get("/api/auth/setup-status").send().await.ok();
    assert_eq!(status, json!({ "setupRequired": true, "codeRequired": true }));
    server.post("/api/auth/setup", ada()).send().await.refused(403, "SETUP_CODE_WRONG");
    let mut person = ada();
    person["setupCode"] = json!(server.state.authenticator.setup_code());
    let started = server.post("/api/auth/setup", person).send().await;
    assert_eq!(started.status, 201, "{}", started.text);
    assert!(started.header("set-cookie").unwrap().contains("; Secure"));
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let server = Server::start().await;
    let token = server.person(Role::Editor, None).await;
    let cookie = format!("theme=dark; realtime_session={token}");
    let me = server.get("/api/auth/me").header("cookie", &cookie).send().await.ok();
    let topic = json!({ "name": "a.b", "description": "d", "owner": "o" });
    server
        .post("/api/topics", topic.clone())
        .header("cookie", &cookie)
        .send()
        .await
        .refused(403, "CSRF_FAILED");
    server
        .post("/api/topics", topic.clone())
        .header("cookie", &cookie)
        .header("x-csrf-token", "guess")
        .send()
        .await
        .refused(403, "CSRF_FAILED");
    let csrf = me["csrfToken"].as_str().unwrap();
    server
        .post("/api/topics", topic)
        .header("cookie", &cookie)
        .header("x-csrf-token", csrf)
        .send()
        .await
        .ok();
}

#[tokio::test]
async fn failures_are_delayed_with_a_time() {
    let server = Server::start().await;
    let wrong = json!({ "email": "nobody@example.com", "password": "wrong horse" });
    for _ in 0..10 {
        server.post("/api/auth/login", wrong.clone()).send().await.refused(401, "LOGIN_FAILED");
    }
    // However long the requests take, the wait is not over.
    sqlx::query("update login_failures set blocked_until = blocked_until + interval '1 minute'")
        .execute(&server.test.pool)
        .await
        .unwrap();
    let delayed = server.post("/api/auth/login", wrong).send().await;
    assert!(delayed.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    delayed.refused(429, "LOGIN_DELAYED");
}
