//! How many connections one address may begin.

use crate::{
    clients::{Refusal, plain::Plain},
    harness::{Instance, Platform, limits},
    token::service,
};
use backend::gateway::{AddressLimits, GatewayLimits};
use shared_config::Networks;
use std::time::Duration;

const MOST: u32 = 5;

fn limited(exempt: Networks) -> GatewayLimits {
    let addresses = AddressLimits { handshakes_per_minute: Some(MOST), exempt, ..AddressLimits::default() };
    GatewayLimits { addresses, ..limits() }
}

/// Opens connections until one is refused, at most 30; answers how many were let in.
async fn until_refused(instance: &Instance) -> (u32, Option<Refusal>) {
    let path = format!("/ws?token={}", service());
    for opened in 0..30 {
        match Plain::request(instance, &path, &[]).await {
            Ok(_) => {}
            Err(refusal) => return (opened, Some(refusal)),
        }
        // What was counted is shared ten times a second.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    (30, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_address_begins_so_many_connections_over_all_instances_of_a_redis() {
    let platform = Platform::start().await;
    let (here, there) = (
        platform.instance_with(limited(Networks::default())).await,
        platform.instance_with(limited(Networks::default())).await,
    );
    let (opened, refusal) = until_refused(&here).await;
    // The minute may turn meanwhile.
    assert!((MOST..=2 * MOST).contains(&opened), "{opened}");
    let refusal = refusal.unwrap();
    assert_eq!((refusal.status, refusal.code.as_str()), (Some(429), "LIMIT_EXCEEDED"));
    let (opened, refusal) = until_refused(&there).await;
    assert!(refusal.is_some());
    let is_shared = std::env::var("REALTIME_TEST_LOG").is_ok_and(|log| log == "redis");
    if is_shared {
        assert!(opened < MOST, "what was begun at the other instance counts: {opened}");
    } else {
        assert!((MOST..=2 * MOST).contains(&opened), "each instance counts by itself: {opened}");
    }
    let exempt = platform.instance_with(limited(Networks::parse("127.0.0.0/8").unwrap())).await;
    for _ in 0..3 * MOST {
        Plain::open(&exempt, &service()).await;
    }
}
