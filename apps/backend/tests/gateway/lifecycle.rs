//! What side-effect readers are told of connections and of who is present.

use crate::{
    clients::{Client as _, Wish, plain::Plain, socketio::SocketIo, sse::Stream},
    harness::{Instance, Platform, default_scope, soon},
    token::{Token, now_seconds, service},
};
use event_log::{SideEffectReader, StoredEvent, TopicKey, partition_of};
use event_router::own::{CONNECTIONS, PRESENCE};
use serde_json::{Value, json};
use shared_types::{AppId, TopicName};
use std::{sync::Arc, time::Duration};

/// A group that reads what is said of connections and members of the default scope.
struct Reader(Arc<dyn SideEffectReader>, u16);

impl Reader {
    async fn of(instance: &Instance) -> Self {
        let log = instance.router.log();
        Self(log.side_effects("webhooks").await.unwrap(), log.partitions())
    }

    /// What has been said so far under a topic.
    async fn all(&self, topic: &str) -> Vec<Arc<StoredEvent>> {
        let key = TopicKey::new(&default_scope(), &TopicName::from_stored(topic));
        let read = self.0.read(partition_of(&key, self.1), 1_000).await.unwrap();
        read.into_iter().map(|effect| effect.event).filter(|event| event.key == key).collect()
    }

    /// All that is said of a socket, once it is `count`.
    async fn of_socket(&self, topic: &str, socket: &str, count: usize) -> Vec<Value> {
        let all = async {
            loop {
                let said: Vec<Value> = self.all(topic).await.iter().map(|event| json_of(event)).collect();
                let of: Vec<Value> =
                    said.into_iter().filter(|event| event["payload"]["socketId"] == socket).collect();
                if of.len() >= count {
                    return of;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let all = soon("the log is told", all).await;
        assert_eq!(all.len(), count, "once each: {all:?}");
        all
    }
}

fn json_of(event: &StoredEvent) -> Value {
    serde_json::from_str(&event.to_json()).unwrap()
}

fn token(sub: &str) -> Token {
    Token::service().with("sub", sub)
}

fn socket(client: &Plain) -> String {
    client.welcome["socketId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn beginnings_and_ends_are_said_with_who_and_why() {
    let (_platform, instance) = Platform::with_instance().await;
    let reader = Reader::of(&instance).await;
    let alice = Plain::open(&instance, &token("alice").sign()).await;
    let of_alice = socket(&alice);
    drop(alice);
    let said = reader.of_socket(CONNECTIONS, &of_alice, 2).await;
    let kinds: Vec<&Value> = said.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["socket.connect", "socket.disconnect"]);
    let (begun, ended) = (&said[0]["payload"], &said[1]["payload"]);
    assert_eq!((&begun["clientId"], &begun["transport"]), (&json!("alice"), &json!("websocket")));
    assert_eq!((&begun["address"], &said[0]["source"]), (&json!("127.0.0.1"), &json!("socket")));
    assert!(begun["connectedAt"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!((&ended["reason"], &ended["clientId"]), (&json!("client_gone"), &json!("alice")));
    assert!(ended["durationMs"].as_i64().unwrap() >= 0);
    assert_ne!(said[0]["id"], said[1]["id"]);

    let app = AppId::from_stored("app_default");
    let revoked = token("bob").with("jti", "one").with("iat", now_seconds() - 5).sign();
    let bob = Plain::open(&instance, &revoked).await;
    instance.authenticator.revoke_token(&app, "one").await.unwrap();
    let said = reader.of_socket(CONNECTIONS, &socket(&bob), 2).await;
    assert_eq!(said[1]["payload"]["reason"], "token_revoked");

    let stream = Stream::open(&instance, Some(&service()), Wish::new("a.b")).await.ok().unwrap();
    let of_stream = stream.subscribed.data["socketId"].as_str().unwrap().to_owned();
    let _socketio = SocketIo::open(&instance, &service()).await;
    assert_eq!(reader.of_socket(CONNECTIONS, &of_stream, 1).await[0]["payload"]["transport"], "sse");
    instance.gateway.drain(Duration::from_secs(10)).await;
    let said = reader.of_socket(CONNECTIONS, &of_stream, 2).await;
    assert_eq!(said[1]["payload"]["reason"], "server_stopping", "a stop waits until it is said");
    let ends = reader.all(CONNECTIONS).await;
    assert_eq!(ends.iter().filter(|event| &*event.kind == "socket.disconnect").count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn changes_of_presence_are_said() {
    let (_platform, instance) = Platform::with_instance().await;
    let reader = Reader::of(&instance).await;
    let mut alice = Plain::open(&instance, &token("alice").sign()).await;
    let document = json!({ "service": "notes", "id": "1" });
    for (kind, data) in [("presence:enter", json!({ "a": 1 })), ("presence:update", json!("away"))] {
        let ask = json!({ "type": kind, "ref": 1, "document": document, "data": data });
        assert_eq!(alice.ask_frame(ask).await["type"], "ok");
    }
    let ask = json!({ "type": "presence:enter", "ref": 1, "channel": "chat:room1" });
    assert_eq!(alice.ask_frame(ask).await["type"], "ok");
    // Joining a channel is no presence.
    alice.ask_frame(json!({ "type": "channel:join", "ref": 1, "channel": "chat:room2" })).await;
    let of_alice = socket(&alice);
    drop(alice);
    let said = reader.of_socket(PRESENCE, &of_alice, 5).await;
    assert!(
        said.iter()
            .all(|event| event["type"] == "presence.updated" && event["payload"]["clientId"] == "alice")
    );
    let actions: Vec<&Value> = said.iter().map(|event| &event["payload"]["action"]).collect();
    assert_eq!(actions, ["enter", "update", "enter", "leave", "leave"]);
    assert_eq!(said[0]["payload"]["document"], document);
    assert_eq!(
        (&said[1]["payload"]["data"], &said[2]["payload"]["channel"]),
        (&json!("away"), &json!("chat:room1"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn others_say_what_went_with_an_instance_that_died() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let third = platform.instance().await;
    let reader = Reader::of(&here).await;
    let mut bob = Plain::open(&there, &token("bob").sign()).await;
    let ask = json!({ "type": "presence:enter", "ref": 1, "channel": "chat:room1", "data": 7 });
    assert_eq!(bob.ask_frame(ask).await["type"], "ok");
    let of_bob = socket(&bob);
    reader.of_socket(CONNECTIONS, &of_bob, 1).await;
    // What is not in the log yet when its instance dies nobody can say.
    reader.of_socket(PRESENCE, &of_bob, 1).await;
    let alice = Plain::open(&here, &token("alice").sign()).await;
    drop(there);
    let said = reader.of_socket(CONNECTIONS, &of_bob, 2).await;
    assert_eq!(said[1]["type"], "socket.disconnect");
    assert_eq!(said[1]["payload"]["reason"], "server_lost");
    assert_eq!(said[1]["payload"]["connectedAt"], said[0]["payload"]["connectedAt"]);
    let left = reader.of_socket(PRESENCE, &of_bob, 2).await;
    assert_eq!((&left[1]["payload"]["action"], &left[1]["payload"]["data"]), (&json!("leave"), &json!(7)));
    // It is said by one, and the living are not taken for dead.
    tokio::time::sleep(Duration::from_secs(4)).await;
    reader.of_socket(CONNECTIONS, &of_bob, 2).await;
    reader.of_socket(CONNECTIONS, &socket(&alice), 1).await;
    drop(third);
}
