//! Watching what happens on connections, and the table of them, over two instances.

use crate::{
    clients::{plain::Plain, sse::Stream},
    harness::{Instance, Platform, limits, soon},
    token::{Token, now_seconds},
};
use backend::gateway::GatewayLimits;
use serde_json::{Value, json};
use shared_types::AppId;
use std::time::Duration;

fn token(sub: &str) -> String {
    Token::service().with("sub", sub).sign()
}

fn admin() -> String {
    Token::of(&["admin"]).sign()
}

/// The next thing that happened of these kinds.
async fn next(stream: &mut Stream, kinds: &[&str]) -> Value {
    loop {
        let message = stream.message().await.expect("the stream goes on");
        if message.event.as_deref() == Some("traffic")
            && kinds.contains(&message.data["type"].as_str().unwrap())
        {
            assert!(message.data["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
            return message.data;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_happens_on_all_instances_is_told_to_who_watches_the_scope() {
    let platform = Platform::start().await;
    platform.add_application("app_other").await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    // An instance is asked once it is known to live.
    let mut stream = soon("both instances say what happens", async {
        loop {
            let stream = Stream::watch(&here, &admin()).await.ok().unwrap();
            if stream.subscribed.data["instances"] == 2 {
                return stream;
            }
        }
    })
    .await;
    let elsewhere = Token::of(&["admin"]).with("aud", "app_other").sign();
    let mut others = Stream::watch(&here, &elsewhere).await.ok().unwrap();

    let mut bob = Plain::open(&there, &token("bob")).await;
    let begun = next(&mut stream, &["socket.connect"]).await;
    assert_eq!((&begun["clientId"], &begun["socketId"]), (&json!("bob"), &bob.welcome["socketId"]));
    let subscribed = bob.ask_frame(json!({ "type": "subscribe", "ref": 1, "topic": "a.b" })).await;
    let entry = next(&mut stream, &["subscribe"]).await;
    assert_eq!((&entry["topic"], &entry["subscriptionId"]), (&json!("a.b"), &subscribed["subscriptionId"]));
    bob.ask_frame(json!({ "type": "unsubscribe", "ref": 1, "subscriptionId": subscribed["subscriptionId"] }))
        .await;
    assert_eq!(next(&mut stream, &["unsubscribe"]).await["topic"], "a.b");
    bob.ask_frame(json!({ "type": "channel:join", "ref": 1, "channel": "chat:room1" })).await;
    assert_eq!(next(&mut stream, &["channel.join"]).await["channel"], "chat:room1");
    let said = json!({ "type": "channel:publish", "ref": 1, "channel": "chat:room1", "event": "e", "data": "secret" });
    bob.ask_frame(said).await;
    let entry = next(&mut stream, &["broadcast"]).await;
    assert_eq!(
        (&entry["channel"], &entry["event"], &entry["bytes"]),
        (&json!("chat:room1"), &json!("e"), &json!(8))
    );
    bob.ask_frame(json!({ "type": "presence:enter", "ref": 1, "channel": "chat:room1" })).await;
    assert_eq!(next(&mut stream, &["presence.updated"]).await["action"], "enter");
    drop(bob);
    assert_eq!(next(&mut stream, &["socket.disconnect"]).await["reason"], "client_gone");

    let stranger = Token::service().with("aud", "app_other").with("sub", "eve").sign();
    let _eve = Plain::open(&here, &stranger).await;
    let first = next(&mut others, &["socket.connect", "socket.disconnect", "subscribe", "broadcast"]).await;
    assert_eq!(first["clientId"], "eve", "and nothing of another application");
}

/// What a watcher shows as connected would stay so for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_ends_of_connections_are_told_whose_instance_stops_or_dies() {
    let platform = Platform::start().await;
    let (here, stopping, dying) =
        (platform.instance().await, platform.instance().await, platform.instance().await);
    let mut stream = soon("all instances say what happens", async {
        loop {
            let stream = Stream::watch(&here, &admin()).await.ok().unwrap();
            if stream.subscribed.data["instances"] == 3 {
                return stream;
            }
        }
    })
    .await;
    let mut bob = Plain::open(&stopping, &token("bob")).await;
    assert_eq!(next(&mut stream, &["socket.connect"]).await["clientId"], "bob");
    let _carol = Plain::open(&dying, &token("carol")).await;
    assert_eq!(next(&mut stream, &["socket.connect"]).await["clientId"], "carol");
    let drain = stopping.gateway.drain(Duration::from_secs(10));
    let (_, told) = soon("the stop", async { tokio::join!(drain, bob.frame()) }).await;
    assert_eq!(told, Err(1001));
    drop(stopping);
    let end = soon("the end of bob", next(&mut stream, &["socket.disconnect"])).await;
    assert_eq!((&end["clientId"], &end["reason"]), (&json!("bob"), &json!("server_stopping")));
    drop(dying);
    let end = tokio::time::timeout(Duration::from_secs(20), next(&mut stream, &["socket.disconnect"]));
    let end = end.await.expect("the end of carol");
    assert_eq!((&end["clientId"], &end["reason"]), (&json!("carol"), &json!("server_lost")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn much_traffic_is_counted_and_not_told_whole() {
    const MESSAGES: u64 = 2_000;
    let platform = Platform::start().await;
    let generous = GatewayLimits { message_burst: 10_000, messages_per_second: 10_000, ..limits() };
    let instance = platform.instance_with(generous).await;
    let mut stream = Stream::watch(&instance, &admin()).await.ok().unwrap();
    let mut bob = Plain::open(&instance, &token("bob")).await;
    for n in 0..MESSAGES {
        bob.send(json!({ "type": "channel:publish", "channel": "chat:room1", "event": "n", "data": n }))
            .await;
    }
    let (mut told, mut omitted) = (0, 0);
    let all = async {
        while told + omitted < MESSAGES {
            let message = stream.message().await.expect("the stream goes on");
            match message.event.as_deref() {
                Some("omitted") => omitted += message.data["count"].as_u64().unwrap(),
                Some("traffic") if message.data["type"] == "broadcast" => told += 1,
                _ => {}
            }
        }
    };
    soon("everything is told or counted", all).await;
    assert_eq!(told + omitted, MESSAGES);
    assert!(omitted > 0, "a sample is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn watching_needs_the_right_and_ends_with_it() {
    let (_platform, instance) = Platform::with_instance().await;
    let refused = Stream::watch(&instance, &Token::of(&["client"]).sign()).await.err().unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (Some(403), "FORBIDDEN"));
    let token = Token::of(&["admin"]).with("jti", "one").with("iat", now_seconds() - 5).sign();
    let mut stream = Stream::watch(&instance, &token).await.ok().unwrap();
    instance.authenticator.revoke_token(&AppId::from_stored("app_default"), "one").await.unwrap();
    while let Some(message) = stream.message().await {
        assert_eq!(message.event.as_deref(), Some("traffic"));
    }
}

async fn get(instance: &Instance, path: &str) -> (Value, Option<String>) {
    let response = reqwest::Client::new().get(instance.url(path)).bearer_auth(admin()).send().await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    let next = response.headers().get("x-next-cursor").map(|value| value.to_str().unwrap().to_owned());
    (serde_json::from_str(&response.text().await.unwrap()).unwrap(), next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_table_of_connections_is_paged_and_filtered_over_instances() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let mut clients = Vec::new();
    for n in 0..7 {
        clients
            .push(Plain::open(if n % 2 == 0 { &here } else { &there }, &token(&format!("c{}", n % 3))).await);
    }
    soon("all are counted", async {
        while get(&here, "/api/socket/connections").await.0 != json!({ "count": 7 }) {}
    })
    .await;
    let mut expected: Vec<&str> =
        clients.iter().map(|client| client.welcome["socketId"].as_str().unwrap()).collect();
    expected.sort_unstable();
    let (mut listed, mut cursor) = (Vec::new(), None::<String>);
    for pages in 1.. {
        let at = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let (page, next) = get(&there, &format!("/api/socket/connections?detail=true&limit=3{at}")).await;
        assert_eq!(page["count"], 7);
        let rows = page["connections"].as_array().unwrap();
        listed.extend(rows.iter().map(|row| row["socketId"].as_str().unwrap().to_owned()));
        cursor = next;
        if cursor.is_none() {
            assert_eq!(pages, 3);
            break;
        }
    }
    assert_eq!(listed, expected);
    let filter = json!({ "n": 1 });
    let subscribe =
        json!({ "type": "subscribe", "ref": 1, "topic": "a.b", "filter": filter, "returnMode": "diff" });
    let subscribed = clients[1].ask_frame(subscribe).await;
    clients[2].ask_frame(json!({ "type": "channel:join", "ref": 1, "channel": "chat:room1" })).await;
    for (filter, count) in [
        ("clientId=c0", 3),
        ("topic=a.b", 1),
        ("channel=chat:room1", 1),
        ("transport=websocket", 7),
        ("transport=sse", 0),
        ("address=127.0.0.1", 7),
        ("address=127.0.0.2", 0),
        ("clientId=c1&channel=chat:room1", 0),
    ] {
        let (page, _) = get(&here, &format!("/api/socket/connections?detail=true&{filter}")).await;
        assert_eq!(page["count"], count, "{filter}");
        assert_eq!(page["connections"].as_array().unwrap().len(), count, "{filter}");
    }
    for (query, path) in [
        ("transport=carrier", "transport"),
        ("address=localhost", "address"),
        ("channel=a%20b", "channel"),
        ("topic=a%20b", "topic"),
        ("detail=1", "detail"),
        ("limit=many", "limit"),
    ] {
        let url = here.url(&format!("/api/socket/connections?{query}"));
        let refused = reqwest::Client::new().get(url).bearer_auth(admin()).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{query}");
        let body: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
        assert_eq!(body["details"][0]["path"], path, "{body}");
    }
    let socket = clients[1].welcome["socketId"].as_str().unwrap();
    let (whole, _) = get(&here, &format!("/api/socket/connections/{socket}")).await;
    assert_eq!((&whole["clientId"], &whole["subscriptions"]), (&json!("c1"), &json!(1)));
    let each = &whole["subscriptionList"][0];
    assert_eq!((&each["subscriptionId"], &each["topic"]), (&subscribed["subscriptionId"], &json!("a.b")));
    assert_eq!((&each["filter"], &each["returnMode"]), (&filter, &json!("diff")));
    assert!(whole["uptimeMs"].as_i64().unwrap() >= 0);
    let unknown = reqwest::Client::new().get(here.url("/api/socket/connections/sock_x-0"));
    assert_eq!(unknown.bearer_auth(admin()).send().await.unwrap().status(), 404);
}
