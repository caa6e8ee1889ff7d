//! What every transport does when a client is slow, the server stops, a token is revoked, or a topic is lost.

use crate::{
    clients::Subscriber,
    clients::{Client, End, Why, Wish, number, plain::Plain, polling::Polling, socketio::SocketIo, sse},
    harness::{Instance, Platform, limits, soon},
    suite::over_all_transports,
    token::{Token, now_seconds, service},
};
use backend::gateway::GatewayLimits;
use event_router::OutboxLimits;
use serde_json::json;
use shared_types::AppId;
use std::time::Duration;

over_all_transports! {
    a_slow_client_is_closed_and_recovers
    stopping_tells_everybody_and_lets_nobody_in
    a_revoked_token_ends_its_connections
}

async fn open<C: Client>(instance: &Instance, token: &str, wish: Wish) -> C {
    C::open(instance, Some(token), wish).await.unwrap_or_else(|refusal| panic!("let in: {refusal:?}"))
}

/// Reads to the end; answers the numbers of the events until there.
async fn rest<C: Client>(client: &mut C) -> (Vec<u64>, End) {
    let mut numbers = Vec::new();
    loop {
        match client.next().await {
            Ok(event) => numbers.push(number(&event)),
            Err(end) => return (numbers, end),
        }
    }
}

async fn a_slow_client_is_closed_and_recovers<C: Client>() {
    const EVENTS: u64 = 60;
    let platform = Platform::start().await;
    let outbox = OutboxLimits { bytes: 256 << 10, messages: 64 };
    let instance = platform.instance_with(GatewayLimits { outbox, ..limits() }).await;
    let mut slow: C = open(&instance, &service(), Wish::new("big.events")).await;
    let mut witness: C = open(&instance, &service(), Wish::new("big.events")).await;
    let filling = "x".repeat(48 << 10);
    for n in 0..EVENTS {
        instance.publish("big.events", json!({ "n": n, "filling": filling })).await;
        assert_eq!(number(&witness.next().await.unwrap()), n, "others are not slowed");
    }
    let (before, end) = rest(&mut slow).await;
    assert_eq!(end, C::end(Why::Slow));
    assert_eq!(before, (0..before.len() as u64).collect::<Vec<_>>(), "in order, without a gap");
    assert!((before.len() as u64) < EVENTS, "it missed some");
    let place = slow.place();
    drop(slow);
    let again = async {
        while instance.metrics.slow_consumers.get() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What waits for it at once must fit, so that the pages of its recovery come one by one.
        let instance = platform.instance().await;
        let mut again: C = open(&instance, &service(), Wish::new("big.events").since(place)).await;
        assert!(again.recovered());
        for n in before.len() as u64..EVENTS {
            assert_eq!(number(&again.next().await.unwrap()), n);
        }
    };
    soon("the slow consumer is counted and recovers", again).await;
}

async fn stopping_tells_everybody_and_lets_nobody_in<C: Client>() {
    let (platform, instance) = Platform::with_instance().await;
    let mut clients: Vec<C> = Vec::new();
    for _ in 0..3 {
        clients.push(open(&instance, &service(), Wish::new("a.b")).await);
    }
    instance.publish("a.b", json!({ "n": 1 })).await;
    for client in &mut clients {
        assert_eq!(number(&client.next().await.unwrap()), 1);
    }
    let drain = instance.gateway.drain(Duration::from_secs(10));
    let told = async {
        for client in &mut clients {
            assert_eq!(rest(client).await, (vec![], C::end(Why::Stopping)));
        }
    };
    soon("the end of all connections", async { tokio::join!(drain, told) }).await;
    let place = clients[0].place();
    let other = platform.instance().await;
    instance.publish("a.b", json!({ "n": 2 })).await;
    let mut elsewhere: C = open(&other, &service(), Wish::new("a.b").since(place)).await;
    assert!(elsewhere.recovered());
    assert_eq!(number(&elsewhere.next().await.unwrap()), 2);
}

async fn a_revoked_token_ends_its_connections<C: Client>() {
    let platform = Platform::start().await;
    let (here, there) = (platform.instance().await, platform.instance().await);
    let token = |jti: &str, sub: &str| {
        Token::service().with("jti", jti).with("sub", sub).with("iat", now_seconds() - 5).sign()
    };
    let app = AppId::from_stored("app_default");
    let mut by_id: C = open(&there, &token("one", "alice"), Wish::new("a.b")).await;
    let mut by_subject: C = open(&there, &token("two", "bob"), Wish::new("a.b")).await;
    let mut kept: C = open(&there, &token("three", "carol"), Wish::new("a.b")).await;
    here.authenticator.revoke_token(&app, "one").await.unwrap();
    assert_eq!(rest(&mut by_id).await, (vec![], C::end(Why::Revoked)));
    here.authenticator.revoke_subject(&app, "bob").await.unwrap();
    assert_eq!(rest(&mut by_subject).await, (vec![], C::end(Why::Revoked)));
    for token in [token("one", "alice"), token("two", "bob")] {
        let refused = C::open(&there, Some(&token), Wish::new("a.b")).await.err();
        assert_eq!(refused.expect("refused"), C::refused(401, "TOKEN_REVOKED"));
    }
    here.publish("a.b", json!({ "n": 1 })).await;
    assert_eq!(number(&kept.next().await.unwrap()), 1, "others stay");
}
