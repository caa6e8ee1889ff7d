//! What only Socket.IO over long-polling has: sessions over requests, and the upgrade.

use crate::{
    clients::{
        Link as _, Said,
        polling::{Polling, Polls},
        socketio::{Packets, connect_packet},
    },
    harness::{Platform, soon},
    token::{Token, service},
};
use serde_json::{Value, json};
use shared_types::AppId;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn packets_of_one_body_are_taken_in_order() {
    let (_platform, instance) = Platform::with_instance().await;
    let polls = Polls::begin(&instance).await;
    let connect = connect_packet(Some(&service()));
    let body = format!(
        "{connect}\u{1e}421[\"subscribe\",{{\"topic\":\"a.b\"}}]\u{1e}422[\"ping\",{{}}]\u{1e}423[\"nonsense\"]"
    );
    assert_eq!(polls.post(body).await, (200, "ok".to_owned()));
    let mut packets = Vec::new();
    while packets.len() < 4 {
        let (_, body) = soon("a poll", polls.poll()).await;
        packets.extend(body.split('\u{1e}').map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(packets[0].starts_with("40{"));
    // A subscribe is answered when its topic is live; others need not wait for that.
    let answer = |number: u64| {
        let start = format!("43{number}[");
        let found = packets.iter().filter(|packet| packet.starts_with(&start));
        let found: Vec<&String> = found.collect();
        assert_eq!(found.len(), 1, "{packets:?}");
        serde_json::from_str::<Value>(&found[0][start.len() - 1..]).unwrap()[0].clone()
    };
    assert_eq!(answer(1)["topic"], "a.b");
    assert_eq!(answer(2), json!({ "ok": true }));
    assert_eq!(answer(3)["code"], "UNKNOWN_MESSAGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_with_attachments_are_refused_and_the_session_goes_on() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut polling = Polling::connect(&instance, Some(&service())).await.unwrap();
    let buffers = r#"{"a":{"_placeholder":true,"num":0},"b":{"_placeholder":true,"num":1}}"#;
    for number in 1..=4 {
        let message = format!(r#"452-{number}["publish",{{"topic":"a.b","payload":{buffers}}}]"#);
        let body = format!("{message}\u{1e}bAQID\u{1e}bBAUG");
        assert_eq!(polling.polls.post(body).await, (200, "ok".to_owned()));
        match polling.hear().await {
            Said::Answer { to, result: Err(refused) } => {
                assert_eq!((to, &refused["code"]), (number, &json!("BINARY_NOT_SUPPORTED")));
            }
            other => panic!("a refusal: {other:?}"),
        }
    }
    polling.ask(5, "ping", json!({})).await;
    assert!(matches!(polling.hear().await, Said::Answer { to: 5, result: Ok(_) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unknown_session_is_refused() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut polls = Polls::begin(&instance).await;
    polls.url = polls.url.replace(&polls.sid, "eio_unknown");
    for (status, body) in [polls.poll().await, polls.post("3".to_owned()).await] {
        assert_eq!(status, 400);
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["code"], 1);
    }
    let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket&sid=eio_unknown", instance.address);
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_polls_at_once_end_the_session() {
    let (_platform, instance) = Platform::with_instance().await;
    let polling = Polling::connect(&instance, Some(&service())).await.unwrap();
    let (first, second) =
        soon("both answers", async { tokio::join!(polling.polls.poll(), polling.polls.poll()) }).await;
    let refused = [&first, &second].into_iter().filter(|(status, _)| *status == 400).count();
    assert_eq!(refused, 1, "{first:?} {second:?}");
    let (status, body) = polling.polls.poll().await;
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["code"].clone()), (400, json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn goodbye_ends_the_session() {
    let (_platform, instance) = Platform::with_instance().await;
    for goodbye in ["41", "1"] {
        let polling = Polling::connect(&instance, Some(&service())).await.unwrap();
        assert_eq!(polling.polls.post(goodbye.to_owned()).await.0, 200);
        assert_eq!(polling.polls.poll().await.0, 400, "{goodbye}");
    }
}

/// A client takes the transport's close at once and the packets before it later: in one answer, the reason would be lost
/// on it, and it would come back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn why_a_session_ends_is_told_before_its_transport_closes() {
    let (_platform, instance) = Platform::with_instance().await;
    let token = || Token::service().with("jti", "mine").sign();
    let revoked = async |polling: &Polling| {
        let (poll, _) = tokio::join!(polling.polls.poll(), async {
            instance.authenticator.revoke_token(&AppId::from_stored("app_default"), "mine").await.unwrap();
        });
        poll
    };
    let polling = Polling::connect(&instance, Some(&token())).await.unwrap();
    let (status, body) = soon("the farewell", revoked(&polling)).await;
    let packets: Vec<&str> = body.split('\u{1e}').collect();
    assert_eq!((status, packets.len()), (200, 2), "{body}");
    assert!(packets[0].starts_with("42[\"error\",") && packets[0].contains("TOKEN_REVOKED"), "{body}");
    assert_eq!(packets[1], "41");
    let url =
        format!("ws://{}/socket.io/?EIO=4&transport=websocket&sid={}", instance.address, polling.polls.sid);
    assert!(tokio_tungstenite::connect_async(url).await.is_err(), "it cannot move to a WebSocket any more");
    assert_eq!(polling.polls.post("1".to_owned()).await, (200, "ok".to_owned()));
    assert_eq!(soon("the close", polling.polls.poll()).await, (200, "1".to_owned()));
    assert_eq!(polling.polls.poll().await.0, 400, "the session is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_moves_to_a_websocket_without_losing_anything() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut polling = Polling::connect(&instance, Some(&service())).await.unwrap();
    polling.ask(1, "subscribe", json!({ "topic": "a.b" })).await;
    assert!(matches!(polling.hear().await, Said::Answer { to: 1, result: Ok(_) }));
    instance.publish("a.b", json!({ "n": 0 })).await;

    let mut seen = Vec::new();
    let mut note = |packet: &str| {
        if let Some(arguments) = packet.strip_prefix("42") {
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            seen.push(arguments[1]["payload"]["n"].as_u64().unwrap());
        }
    };
    let mut packets = Packets::open(&instance, &format!("&sid={}", polling.polls.sid)).await;
    let probe = async {
        packets.send("2probe").await;
        assert_eq!(packets.packet().await, "3probe");
        instance.publish("a.b", json!({ "n": 1 })).await;
        packets.send("5").await;
        packets
    };
    // As the reference client: polls go on until the probe is answered, and the last one is let go by a noop.
    let polls = async {
        let mut bodies = String::new();
        loop {
            let (status, body) = polling.polls.poll().await;
            if status != 200 {
                return bodies;
            }
            bodies.push_str(&body);
            bodies.push('\u{1e}');
            if body == "6" {
                return bodies;
            }
        }
    };
    let (mut packets, bodies) = soon("the upgrade", async { tokio::join!(probe, polls) }).await;
    bodies.split('\u{1e}').for_each(&mut note);
    instance.publish("a.b", json!({ "n": 2 })).await;
    packets.send(r#"429["ping",{}]"#).await;
    loop {
        let packet = packets.packet().await;
        note(&packet);
        if packet.starts_with("42") && packet.contains("\"n\":2") {
            break;
        }
    }
    assert_eq!(seen, [0, 1, 2]);
    assert_eq!(polling.polls.poll().await.0, 400, "the session has left long-polling");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_probe_leaves_the_session_as_it_was() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut polling = Polling::connect(&instance, Some(&service())).await.unwrap();
    let mut packets = Packets::open(&instance, &format!("&sid={}", polling.polls.sid)).await;
    packets.send("2probe").await;
    assert_eq!(packets.packet().await, "3probe");
    drop(packets);
    let mut packets = Packets::open(&instance, &format!("&sid={}", polling.polls.sid)).await;
    packets.send("4nonsense").await;
    assert_eq!(packets.next().await, None);
    polling.ask(1, "ping", json!({})).await;
    loop {
        let packet = polling.packet().await;
        if packet == r#"431[{"ok":true}]"# {
            return;
        }
        assert_eq!(packet, "6");
    }
}
