//! Channels, direct messages and presence, over two instances.

use crate::{
    clients::{Link as _, Said, plain::Plain, socketio::SocketIo},
    harness::{Instance, Platform, limits, soon},
    token::{Token, service},
};
use backend::gateway::GatewayLimits;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

fn token(sub: &str) -> String {
    Token::service().with("sub", sub).sign()
}

async fn plain(instance: &Instance, sub: &str) -> Plain {
    Plain::open(instance, &token(sub)).await
}

async fn ask(client: &mut Plain, kind: &str, body: Value) -> Value {
    let mut frame = json!({ "type": kind, "ref": kind });
    frame.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    client.send(frame).await;
    loop {
        let answer = client.frame().await.unwrap();
        if answer["ref"] == kind {
            return answer;
        }
    }
}

async fn join(client: &mut Plain, channel: &str) -> Vec<Value> {
    let joined = ask(client, "channel:join", json!({ "channel": channel })).await;
    assert_eq!((&joined["type"], &joined["channel"]), (&json!("ok"), &json!(channel)), "{joined}");
    joined["members"].as_array().unwrap().clone()
}

fn socket(client: &Plain) -> &str {
    client.welcome["socketId"].as_str().unwrap()
}

/// Nothing comes but the answer to a ping.
async fn is_quiet(client: &mut Plain) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.ask_frame(json!({ "type": "ping", "ref": "quiet" })).await["type"], "pong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_reaches_the_members_of_all_instances_and_not_its_sender() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
    let mut stranger = plain(&there, "stranger").await;
    assert_eq!(join(&mut alice, "chat:room1").await.len(), 1);
    let members = join(&mut bob, "chat:room1").await;
    assert_eq!(members.len(), 2);
    assert!(members.iter().all(|member| member["joinedAt"].is_i64() && member["socketId"].is_string()));
    let said = json!({ "channel": "chat:room1", "event": "typing", "data": { "is": [1.50, null] } });
    let answer = ask(&mut alice, "channel:publish", said).await;
    assert!(answer["id"].as_str().unwrap().starts_with("evt_"));
    let heard = bob.frame().await.unwrap();
    assert_eq!(heard["type"], "message");
    assert_eq!(
        (&heard["event"], &heard["channel"], &heard["data"]),
        (&json!("typing"), &json!("chat:room1"), &json!({ "is": [1.50, null] }))
    );
    assert_eq!(heard["from"], json!({ "clientId": "alice", "socketId": socket(&alice) }));
    assert!(heard["timestamp"].is_i64());
    is_quiet(&mut alice).await;
    is_quiet(&mut stranger).await;
    alice
        .send(json!({ "type": "channel:publish", "ref": 1, "channel": "chat:room1", "event": "hello",
        "data": "me too", "echo": true }))
        .await;
    let mut own = Vec::new();
    for _ in 0..2 {
        own.push(alice.frame().await.unwrap()["type"].as_str().unwrap().to_owned());
    }
    own.sort();
    assert_eq!(own, ["message", "ok"]);
    assert_eq!(bob.frame().await.unwrap()["data"], "me too");
    let left = ask(&mut bob, "channel:leave", json!({ "channel": "chat:room1" })).await;
    assert_eq!(left["type"], "ok");
    ask(&mut alice, "channel:publish", json!({ "channel": "chat:room1", "event": "x", "data": 1 })).await;
    is_quiet(&mut bob).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_of_one_sender_come_in_order() {
    const MESSAGES: u64 = 150;
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
    join(&mut bob, "chat:room1").await;
    for n in 0..MESSAGES {
        alice
            .send(json!({ "type": "channel:publish", "channel": "chat:room1", "event": "n", "data": n }))
            .await;
    }
    for n in 0..MESSAGES {
        assert_eq!(bob.frame().await.unwrap()["data"], n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn subscribers_of_the_channels_name_receive_an_event() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
    let subscribe = |filter: Value| json!({ "topic": "chat:room1", "filter": filter });
    ask(&mut bob, "subscribe", subscribe(json!({ "kind": "news" }))).await;
    let own = ask(&mut alice, "subscribe", subscribe(json!({}))).await;
    let offset = own["offset"].as_u64().unwrap();
    let say = |data: Value| json!({ "channel": "chat:room1", "event": "posted", "data": data });
    ask(&mut alice, "channel:publish", say(json!({ "kind": "gossip" }))).await;
    ask(&mut alice, "channel:publish", say(json!({ "kind": "news", "n": 1 }))).await;
    let event = bob.frame().await.unwrap();
    assert_eq!((&event["type"], &event["topic"]), (&json!("event"), &json!("chat:room1")));
    let data = &event["data"];
    assert_eq!((&data["source"], &data["type"]), (&json!("socket"), &json!("posted")));
    assert_eq!(data["payload"], json!({ "kind": "news", "n": 1 }));
    assert!(data["metadata"]["timestamp"].is_i64() && data["metadata"].get("offset").is_none(), "{data}");
    is_quiet(&mut alice).await;
    let mut everything = plain(&there, "carol").await;
    ask(&mut everything, "subscribe", subscribe(json!({}))).await;
    ask(&mut alice, "channel:publish", say(json!("words"))).await;
    assert_eq!(everything.frame().await.unwrap()["data"]["payload"], json!({ "value": "words" }));
    let history = ask(&mut alice, "history", json!({ "topic": "chat:room1" })).await;
    assert_eq!((&history["events"], history["offset"].as_u64()), (&json!([]), Some(offset)), "kept nowhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_direct_message_reaches_one_connection_wherever_it_is() {
    let platform = Platform::start().await;
    platform.add_application("app_other").await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob, mut carol) =
        (plain(&here, "alice").await, plain(&there, "bob").await, plain(&here, "carol").await);
    for (target, expected) in [(socket(&bob), true), (socket(&carol), true), ("sock_nobody-0", false)] {
        let message = json!({ "targetSocketId": target, "event": "invite", "data": [1] });
        let answer = ask(&mut alice, "direct:message", message).await;
        assert_eq!(answer["delivered"], expected, "{target}");
    }
    for client in [&mut bob, &mut carol] {
        let heard = client.frame().await.unwrap();
        assert_eq!(
            (&heard["type"], &heard["event"], &heard["data"]),
            (&json!("message"), &json!("invite"), &json!([1]))
        );
        assert!(heard.get("channel").is_none());
        assert_eq!(heard["from"]["clientId"], "alice");
    }
    let elsewhere = Token::service().with("aud", "app_other").sign();
    let mut spy = Plain::open(&here, &elsewhere).await;
    let reach = json!({ "targetSocketId": socket(&carol), "event": "invite", "data": 2 });
    assert_eq!(ask(&mut spy, "direct:message", reach).await["delivered"], false, "not across tenants");
    is_quiet(&mut carol).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn presence_is_announced_to_those_who_are_there() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    for place in
        [json!({ "channel": "chat:room1" }), json!({ "document": { "service": "notes", "id": "1" } })]
    {
        let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
        let with = |data: Value| {
            let mut body = place.clone();
            body["data"] = data;
            body
        };
        let entered = ask(&mut alice, "presence:enter", with(json!({ "status": "here" }))).await;
        assert_eq!(entered["members"][0]["data"], json!({ "status": "here" }));
        let entered = ask(&mut bob, "presence:enter", with(Value::Null)).await;
        assert_eq!(entered["members"].as_array().unwrap().len(), 2);
        let change = alice.frame().await.unwrap();
        assert_eq!((&change["type"], &change["action"]), (&json!("presence"), &json!("enter")));
        let (name, value) = place.as_object().unwrap().iter().next().unwrap();
        assert_eq!(&change[name], value);
        assert_eq!(change["member"]["clientId"], "bob");
        assert_eq!(change["member"]["socketId"], socket(&bob));
        ask(&mut bob, "presence:update", with(json!("away"))).await;
        let change = alice.frame().await.unwrap();
        assert_eq!((&change["action"], &change["member"]["data"]), (&json!("update"), &json!("away")));
        let seen = ask(&mut alice, "presence:get", place.clone()).await;
        assert_eq!(seen["members"].as_array().unwrap().len(), 2);
        drop(bob);
        let change = alice.frame().await.unwrap();
        assert_eq!((&change["action"], &change["member"]["clientId"]), (&json!("leave"), &json!("bob")));
        let left = ask(&mut alice, "presence:leave", place.clone()).await;
        assert_eq!(left["members"], json!([]));
        let update = ask(&mut alice, "presence:update", with(json!(1))).await;
        assert_eq!(update["code"], "NOT_PRESENT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_members_of_a_dead_instance_are_gone_within_fifteen_seconds() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
    let place = json!({ "channel": "chat:room1" });
    join(&mut alice, "chat:room1").await;
    ask(&mut bob, "presence:enter", place.clone()).await;
    assert_eq!(alice.frame().await.unwrap()["action"], "enter");
    drop(there);
    let mut again = plain(&here, "bob").await;
    ask(&mut again, "presence:enter", place.clone()).await;
    let change = alice.frame().await.unwrap();
    assert_eq!(
        (&change["action"], &change["member"]["socketId"]),
        (&json!("update"), &json!(socket(&again)))
    );
    let carol = platform.instance().await;
    let mut third = plain(&carol, "carol").await;
    ask(&mut third, "presence:enter", place.clone()).await;
    assert_eq!(alice.frame().await.unwrap()["member"]["clientId"], "carol");
    drop(carol);
    let gone = tokio::time::timeout(Duration::from_secs(15), alice.frame()).await.unwrap().unwrap();
    assert_eq!((&gone["action"], &gone["member"]["clientId"]), (&json!("leave"), &json!("carol")));
}

/// Everybody is entered again as it was last, which nobody hears of; who leaves before that is heard to leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn members_that_the_store_has_lost_are_entered_again() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob, mut carol) =
        (plain(&here, "alice").await, plain(&here, "bob").await, plain(&there, "carol").await);
    let with = |data: Value| json!({ "channel": "chat:room1", "data": data });
    for client in [&mut carol, &mut alice, &mut bob] {
        ask(client, "presence:enter", with(json!("here"))).await;
    }
    ask(&mut bob, "presence:update", with(json!("away"))).await;
    for (action, who) in [("enter", "alice"), ("enter", "bob"), ("update", "bob")] {
        let change = carol.frame().await.unwrap();
        assert_eq!((&change["action"], &change["member"]["clientId"]), (&json!(action), &json!(who)));
    }
    platform.lose_members().await;
    drop(alice);
    let change = carol.frame().await.unwrap();
    assert_eq!((&change["action"], &change["member"]["clientId"]), (&json!("leave"), &json!("alice")));
    let expected = [("bob".to_owned(), json!("away")), ("carol".to_owned(), json!("here"))];
    let again = async {
        loop {
            let seen = ask(&mut carol, "presence:get", json!({ "channel": "chat:room1" })).await;
            let members = seen["members"].as_array().cloned().unwrap_or_default();
            let member = |one: &Value| (one["clientId"].as_str().unwrap().to_owned(), one["data"].clone());
            let mut members: Vec<_> = members.iter().map(member).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            if members == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon("both are there again", again).await;
    is_quiet(&mut carol).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_new_token_does_not_cover_ends_and_is_named() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut alice = plain(&instance, "alice").await;
    let document = json!({ "service": "notes", "id": "1" });
    join(&mut alice, "chat:room1").await;
    join(&mut alice, "open:room").await;
    for place in [json!({ "channel": "chat:room2" }), json!({ "document": document })] {
        ask(&mut alice, "presence:enter", place).await;
    }
    let narrow =
        Token::service().with("sub", "alice").with("capabilities", json!({ "open:*": ["subscribe"] }));
    alice.send(json!({ "type": "auth:refresh", "ref": 1, "token": narrow.sign() })).await;
    let mut ended = Vec::new();
    loop {
        let frame = alice.frame().await.unwrap();
        if frame["ref"] == 1 {
            assert_eq!(frame["type"], "ok");
            break;
        }
        assert_eq!((&frame["type"], &frame["code"]), (&json!("error"), &json!("FORBIDDEN")));
        ended.push(json!([frame["channel"], frame["document"]]).to_string());
    }
    ended.sort();
    let expected = [json!(["chat:room1", null]), json!(["chat:room2", null]), json!([null, document])];
    assert_eq!(ended, expected.map(|one| one.to_string()));
    assert_eq!(join(&mut alice, "open:room").await.len(), 1, "what is covered stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn socketio_hears_a_message_under_its_name() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let mut alice = plain(&here, "alice").await;
    let mut bob = SocketIo::open(&there, &token("bob")).await;
    bob.ask(1, "channel:join", json!({ "channel": "chat:room1" })).await;
    match bob.hear().await {
        Said::Answer { to: 1, result: Ok(joined) } => {
            assert_eq!(joined["members"].as_array().unwrap().len(), 1)
        }
        other => panic!("the answer: {other:?}"),
    }
    ask(
        &mut alice,
        "channel:publish",
        json!({ "channel": "chat:room1", "event": "message", "data": { "a": 1 } }),
    )
    .await;
    let packet = bob.packets.packet().await;
    let arguments: Value = serde_json::from_str(packet.strip_prefix("42").unwrap()).unwrap();
    assert_eq!((&arguments[0], &arguments[1]), (&json!("message"), &json!({ "a": 1 })));
    assert_eq!(arguments[2]["channel"], "chat:room1");
    assert_eq!(arguments[2]["event"], "message");
    assert_eq!(arguments[2]["from"], json!({ "clientId": "alice", "socketId": socket(&alice) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rest_lists_channels_members_and_connections_and_broadcasts() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let (mut alice, mut bob) = (plain(&here, "alice").await, plain(&there, "bob").await);
    join(&mut alice, "chat:room1").await;
    join(&mut bob, "chat:room1").await;
    join(&mut bob, "chat:room2").await;
    let admin = Token::of(&["admin"]).sign();
    let get = async |path: &str| -> Value {
        let response = reqwest::Client::new().get(here.url(path)).bearer_auth(&admin).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    };
    let channels = get("/api/socket/channels").await;
    assert_eq!(
        channels,
        json!([{ "name": "chat:room1", "memberCount": 2 }, { "name": "chat:room2", "memberCount": 1 }])
    );
    let members = get("/api/socket/channels/chat:room1/members").await;
    let sockets: Vec<&str> =
        members.as_array().unwrap().iter().map(|m| m["socketId"].as_str().unwrap()).collect();
    assert_eq!(sockets.len(), 2);
    assert!(sockets.contains(&socket(&alice)) && sockets.contains(&socket(&bob)));
    soon("both instances are counted", async {
        while get("/api/socket/connections").await != json!({ "count": 2 }) {}
    })
    .await;
    let table = get("/api/socket/connections?detail=true").await;
    let of_bob = table["connections"].as_array().unwrap().iter().find(|c| c["clientId"] == "bob").unwrap();
    assert_eq!((&of_bob["transport"], &of_bob["address"]), (&json!("websocket"), &json!("127.0.0.1")));
    assert_eq!(of_bob["channels"], json!(["chat:room1", "chat:room2"]));
    let said = json!({ "channel": "chat:room1", "event": "message", "data": { "text": "to all" } });
    let broadcast = reqwest::Client::new().post(here.url("/api/socket/broadcast")).bearer_auth(&admin);
    let answer =
        broadcast.header("content-type", "application/json").body(said.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.frame().await.unwrap()["data"]["text"], "to all");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_wrong_is_named() {
    let platform = Platform::start().await;
    let instance = platform.instance_with(GatewayLimits { channels: 2, ..limits() }).await;
    let mut client = Plain::open(&instance, &service()).await;
    let long = "x".repeat(256);
    for (kind, body, code, path) in [
        ("channel:join", json!({}), "VALIDATION_FAILED", "channel"),
        ("channel:join", json!({ "channel": 5 }), "VALIDATION_FAILED", "channel"),
        ("channel:join", json!({ "channel": "a b" }), "INVALID_TOPIC", "channel"),
        ("channel:join", json!({ "channel": long }), "LIMIT_EXCEEDED", "channel"),
        ("channel:join", json!({ "channel": "a", "x": 1 }), "VALIDATION_FAILED", "x"),
        ("channel:leave", json!({}), "VALIDATION_FAILED", "channel"),
        ("channel:publish", json!({ "channel": "a", "data": 1 }), "VALIDATION_FAILED", "event"),
        ("channel:publish", json!({ "channel": "a", "event": "", "data": 1 }), "VALIDATION_FAILED", "event"),
        ("channel:publish", json!({ "channel": "a", "event": "disconnect" }), "VALIDATION_FAILED", "event"),
        ("channel:publish", json!({ "channel": "a", "event": "subscribe" }), "VALIDATION_FAILED", "event"),
        ("channel:publish", json!({ "channel": "a", "event": "e", "echo": 1 }), "VALIDATION_FAILED", "echo"),
        ("channel:publish", json!({ "channel": "a", "event": "e", "data": "\u{0}" }), "INVALID_TEXT", "data"),
        (
            "channel:publish",
            json!({ "channel": "sync.notes.updated", "event": "e" }),
            "FORBIDDEN",
            "channel: what begins with sync.",
        ),
        (
            "channel:publish",
            json!({ "channel": "a", "event": "e", "data": { "list": [1, "\u{0}"] } }),
            "INVALID_TEXT",
            "data.list[1]",
        ),
        ("direct:message", json!({ "event": "e" }), "VALIDATION_FAILED", "targetSocketId"),
        (
            "direct:message",
            json!({ "targetSocketId": 1, "event": "e" }),
            "VALIDATION_FAILED",
            "targetSocketId",
        ),
        ("presence:enter", json!({}), "VALIDATION_FAILED", "channel"),
        (
            "presence:enter",
            json!({ "channel": "a", "document": { "service": "s", "id": "1" } }),
            "VALIDATION_FAILED",
            "channel",
        ),
        ("presence:enter", json!({ "document": { "service": "s" } }), "VALIDATION_FAILED", "document.id"),
        ("presence:enter", json!({ "document": "s/1" }), "VALIDATION_FAILED", "document"),
        (
            "presence:enter",
            json!({ "document": { "service": "Notes", "id": "1" } }),
            "VALIDATION_FAILED",
            "document.service",
        ),
        (
            "presence:enter",
            json!({ "document": { "service": "s", "id": "a/b" } }),
            "INVALID_ID",
            "document.id",
        ),
        (
            "presence:enter",
            json!({ "document": { "service": "s", "id": ".." } }),
            "INVALID_ID",
            "document.id",
        ),
        (
            "presence:enter",
            json!({ "document": { "service": "s", "id": "1", "x": 1 } }),
            "VALIDATION_FAILED",
            "document.x",
        ),
        ("presence:update", json!({ "channel": "a" }), "NOT_PRESENT", "enter"),
        ("presence:get", json!({ "channel": "a", "data": 1 }), "VALIDATION_FAILED", "data"),
    ] {
        let answer = ask(&mut client, kind, body.clone()).await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{kind} {body}: {answer}"
        );
        let named =
            answer["details"][0]["path"] == path || answer["message"].as_str().unwrap().contains(path);
        assert!(named, "{kind} {body}: {answer}");
    }
    for channel in ["a", "b", "a"] {
        join(&mut client, channel).await;
    }
    assert_eq!(ask(&mut client, "channel:join", json!({ "channel": "c" })).await["code"], "LIMIT_EXCEEDED");
    let listener = Token::of(&["subscribe"]).sign();
    let mut listener = Plain::open(&instance, &listener).await;
    join(&mut listener, "a").await;
    for (kind, body) in [
        ("channel:publish", json!({ "channel": "a", "event": "e" })),
        ("direct:message", json!({ "targetSocketId": "sock_x-0", "event": "e" })),
        ("presence:enter", json!({ "channel": "a" })),
        ("presence:get", json!({ "document": { "service": "s", "id": "1" } })),
    ] {
        assert_eq!(ask(&mut listener, kind, body).await["code"], "FORBIDDEN", "{kind}");
    }
    let publisher = Token::of(&["publish"]).sign();
    let mut publisher = Plain::open(&instance, &publisher).await;
    assert_eq!(ask(&mut publisher, "channel:join", json!({ "channel": "a" })).await["code"], "FORBIDDEN");
}
