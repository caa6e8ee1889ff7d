//! What takes its time: heartbeats, clients that fall silent, tokens that expire. All at once, for it takes most of
//! a minute.

use crate::{
    clients::{
        Client as _, End, Subscriber, Why, Wish,
        plain::Plain,
        polling::Polls,
        socketio::{Packets, SocketIo, connect_packet},
        sse::Stream,
    },
    harness::{Instance, Platform},
    token::{Token, service},
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// Longer than any of the documented times.
const LONG: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn heartbeats_silence_and_expiry() {
    let (_platform, instance) = Platform::with_instance().await;
    let all = async {
        tokio::join!(
            a_plain_websocket_is_pinged_and_kept(&instance),
            a_silent_websocket_is_closed(&instance),
            a_socketio_client_is_pinged_and_kept(&instance),
            a_poll_is_answered_by_a_ping(&instance),
            a_stream_has_heartbeats(&instance),
            a_filtered_subscription_hears_where_its_topic_is(&instance),
            an_expired_token_may_be_replaced(&instance),
            expired_plain(&instance),
            expired_socketio(&instance),
            expired_stream(&instance),
        )
    };
    tokio::time::timeout(LONG, all).await.expect("all within their documented times");
}

async fn a_plain_websocket_is_pinged_and_kept(instance: &Instance) {
    let mut plain = Plain::open(instance, &service()).await;
    let begun = Instant::now();
    // The library answers pings by itself while it reads.
    for _ in 0..2 {
        let message = plain.socket.next().await.unwrap().unwrap();
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
    }
    assert!(begun.elapsed() > Duration::from_secs(45), "it is kept as long as it answers");
}

async fn a_silent_websocket_is_closed(instance: &Instance) {
    let mut packets = Packets::open(instance, "").await;
    packets.packet().await;
    packets.send(&connect_packet(Some(&service()))).await;
    packets.packet().await;
    let begun = Instant::now();
    let mut came = Vec::new();
    while let Some(Ok(Message::Text(text))) = packets.0.next().await {
        came.push(text.to_string());
    }
    assert_eq!(came, ["2"], "one ping, and no answer to it");
    assert!(begun.elapsed() > Duration::from_secs(40), "25 s to the ping, and 20 s for its answer");
}

async fn a_socketio_client_is_pinged_and_kept(instance: &Instance) {
    let mut packets = Packets::open(instance, "").await;
    packets.packet().await;
    packets.send(&connect_packet(Some(&service()))).await;
    packets.packet().await;
    for _ in 0..2 {
        let packet = packets.0.next().await.unwrap().unwrap();
        assert_eq!(packet, Message::text("2"));
        packets.send("3").await;
    }
    packets.send(r#"421["ping",{}]"#).await;
    assert_eq!(packets.packet().await, r#"431[{"ok":true}]"#);
}

async fn a_poll_is_answered_by_a_ping(instance: &Instance) {
    let polls = Polls::begin(instance).await;
    polls.post(connect_packet(Some(&service()))).await;
    assert!(polls.poll().await.1.starts_with("40{"));
    for _ in 0..2 {
        assert_eq!(polls.poll().await, (200, "2".to_owned()));
        assert_eq!(polls.post("3".to_owned()).await.0, 200);
    }
}

async fn a_stream_has_heartbeats(instance: &Instance) {
    let wish = Wish::new("project:seldom").filtered(json!({ "n": 1 }));
    let mut stream = open_stream(instance, &service(), wish).await;
    let before = stream.last_id.clone();
    instance.publish("project:seldom", json!({ "n": 2 })).await;
    let mut beats = 0;
    let mut cursor = before.clone();
    while beats == 0 || cursor == before {
        let message = next_message(&mut stream).await;
        assert_eq!((message.0.as_deref(), &message.1["type"]), (None, &json!("heartbeat")));
        assert!(message.1["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
        beats += 1;
        cursor.clone_from(&stream.last_id);
    }
}

/// The next message's event and data, however long it takes.
async fn next_message(stream: &mut Stream) -> (Option<String>, Value) {
    let message = stream.patient_message().await.expect("the stream goes on");
    (message.event, message.data)
}

async fn open_stream(instance: &Instance, token: &str, wish: Wish) -> Stream {
    Stream::open(instance, Some(token), wish).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

async fn a_filtered_subscription_hears_where_its_topic_is(instance: &Instance) {
    let mut plain = Plain::open(instance, &service()).await;
    let subscribe = json!({ "type": "subscribe", "topic": "filtered.out", "filter": { "n": 1 } });
    let id = plain.ask_frame(subscribe).await["subscriptionId"].clone();
    instance.publish_numbers("filtered.out", 2..5).await;
    loop {
        if let Message::Text(text) = plain.socket.next().await.unwrap().unwrap() {
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&frame["type"], &frame["subscriptionId"]), (&json!("position"), &id));
            assert_eq!((&frame["offset"], frame.get("gap")), (&json!(3), None));
            return;
        }
    }
}

async fn an_expired_token_may_be_replaced(instance: &Instance) {
    let token = Token::service().with("sub", "alice");
    let mut plain = Plain::open(instance, &token.clone().expires_in(2).sign()).await;
    let warning = plain.frame().await.unwrap();
    assert_eq!((&warning["type"], &warning["code"]), (&json!("error"), &json!("TOKEN_EXPIRED")));
    let refreshed = plain.ask_frame(json!({ "type": "auth:refresh", "token": token.sign() })).await;
    assert_eq!(refreshed["type"], "ok");
    tokio::time::sleep(Duration::from_secs(33)).await;
    assert_eq!(plain.ask_frame(json!({ "type": "ping" })).await["type"], "pong", "it is kept");
}

async fn expired_plain(instance: &Instance) {
    let token = Token::service().expires_in(2).sign();
    let mut plain = Subscriber::<Plain>::open(instance, Some(&token), Wish::new("a.b")).await.ok().unwrap();
    assert_eq!(plain.link.frame().await.unwrap()["code"], "TOKEN_EXPIRED");
    let begun = Instant::now();
    loop {
        match plain.link.socket.next().await.unwrap().unwrap() {
            Message::Close(frame) => {
                assert_eq!(End::Closed(frame.unwrap().code.into()), Subscriber::<Plain>::end(Why::Expired));
                break;
            }
            other => assert!(matches!(other, Message::Ping(_)), "{other:?}"),
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(25), "after 30 s to replace it");
}

async fn expired_socketio(instance: &Instance) {
    let mut socket = SocketIo::open(instance, &Token::service().expires_in(2).sign()).await;
    let mut codes = Vec::new();
    loop {
        match socket.packets.0.next().await.unwrap().unwrap() {
            Message::Text(text) if text == "2" => socket.packets.send("3").await,
            Message::Text(text) if text == "41" => break,
            Message::Text(text) => {
                let error: Value = serde_json::from_str(text.strip_prefix("42").unwrap()).unwrap();
                assert_eq!(error[0], "error");
                codes.push(error[1]["code"].clone());
            }
            other => panic!("a packet: {other:?}"),
        }
    }
    assert_eq!(codes, ["TOKEN_EXPIRED", "TOKEN_EXPIRED"], "when it expires, and at the end");
}

async fn expired_stream(instance: &Instance) {
    let mut stream = open_stream(instance, &Token::service().expires_in(2).sign(), Wish::new("a.b")).await;
    let begun = Instant::now();
    let (event, data) = next_message(&mut stream).await;
    assert_eq!((event.as_deref(), &data["code"]), (Some("error"), &json!("TOKEN_EXPIRED")));
    let message = data["message"].as_str().unwrap();
    assert!(message.contains("open it again"), "nothing can be sent on a stream: {message}");
    while let Some(message) = stream.patient_message().await {
        assert_eq!(message.data["type"], "heartbeat");
    }
    assert!(begun.elapsed() > Duration::from_secs(30), "the stream ends after the same 30 s");
}
