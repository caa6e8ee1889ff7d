//! What an append costs the Redis server, beside a bare script that issues the same commands with ready-made
//! arguments: processor time a event, for several sizes of batch. It starts servers of its own.
//!
//! `cargo run -p redis-layer --example append_cost -- [always|everysec|nothing] [events]`

use event_log::{Entry, EventLog as _, Identity, TopicKey};
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{Builder, ClusterHash, CustomCommand, Value, config::Config},
};
use futures::{StreamExt, stream};
use metrics::Metrics;
use redis_layer::{RedisSettings, event_log::RedisEventLog};
use shared_types::{AppId, Environment, EventId, RawObject, Scope, Source, TopicName};
use std::sync::Arc;
use testkit::{LocalRedis, Persistence};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Batches under way at a time, each to a topic, and partition, of its own.
const LANES: usize = 8;

/// The same commands as an append of one topic's events, and nothing else.
const BARE: &str = "\
local call = redis.call \
call('GET', KEYS[1]) call('GET', KEYS[3]) call('GET', KEYS[4]) \
local history, side, channel = KEYS[5], KEYS[2], ARGV[2] \
for i = 3, #ARGV do \
  call('XADD', history, '*', 'e', ARGV[i]) call('XADD', side, '*', 'e', ARGV[i]) call('PUBLISH', channel, ARGV[i]) \
end \
call('SET', KEYS[4], ARGV[1], 'PX', '87300000') call('SET', KEYS[1], ARGV[1]) \
call('SET', KEYS[3], ARGV[1], 'PX', '600000') return ARGV[1]";

fn topic(lane: usize) -> TopicKey {
    let topic = TopicName::parse(&format!("load.topic{lane}")).expect("valid");
    TopicKey { scope: Scope::new(AppId::from_stored("app_default"), Environment::Production), topic }
}

fn entry(key: &TopicKey) -> Entry {
    Entry {
        key: key.clone(),
        id: EventId::generate(),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::from_trusted(format!("{{\"text\":\"{}\"}}", "x".repeat(200))),
        metadata: RawObject::from_trusted("{\"timestamp\":1790000000000}"),
        identity: Identity::Unique,
    }
}

/// What the server has used, in microseconds.
#[derive(Clone, Copy)]
struct Used {
    /// Of processor time.
    processor: f64,
    /// Within scripts.
    scripts: f64,
}

impl Used {
    fn of(server: &LocalRedis) -> Self {
        let info = server.command(&["INFO", "cpu", "commandstats"]).join("\n");
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.split(',').next().expect("text").trim().parse::<f64>().expect("a number")
        };
        let processor = (field("used_cpu_user:") + field("used_cpu_sys:")) * 1e6;
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
        let scripts = calls.and_then(|line| line.split("usec=").nth(1)?.split(',').next()?.parse().ok());
        Self { processor, scripts: scripts.unwrap_or_default() }
    }

    fn since(self, before: Self, events: usize) -> Self {
        let each = |now: f64, before: f64| (now - before) / events as f64;
        Self {
            processor: each(self.processor, before.processor),
            scripts: each(self.scripts, before.scripts),
        }
    }
}

async fn ours(persistence: Persistence, events: usize, batch: usize) -> Used {
    let (server, database) = (LocalRedis::start(persistence), testkit::database().await);
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let settings = RedisSettings::new(server.url());
    let pool = database.pool.clone();
    let log = RedisEventLog::start(settings, pool, Metrics::new(), &mut tasks, stop.clone()).expect("a URL");
    for lane in 0..LANES {
        log.head(&topic(lane)).await.expect("head");
    }
    let before = Used::of(&server);
    stream::iter(0..LANES)
        .for_each_concurrent(None, async |lane| {
            let key = topic(lane);
            for _ in 0..events / LANES / batch {
                log.append((0..batch).map(|_| entry(&key)).collect()).await.expect("appended");
            }
        })
        .await;
    let cost = Used::of(&server).since(before, events);
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    cost
}

async fn bare(persistence: Persistence, events: usize, batch: usize) -> Used {
    let server = LocalRedis::start(persistence);
    let client: Arc<Client> = Arc::new(
        Builder::from_config(Config::from_url(&server.url()).expect("a URL")).build().expect("a client"),
    );
    client.init().await.expect("connected");
    let command = |name| CustomCommand::new_static(name, ClusterHash::Random, false);
    let sha: String = client.custom(command("SCRIPT"), vec!["LOAD", BARE]).await.expect("loaded");
    // As long as an encoded event with its position.
    let event = "x".repeat(370);
    let before = Used::of(&server);
    stream::iter(0..LANES)
        .for_each_concurrent(None, async |lane| {
            for _ in 0..events / LANES / batch {
                let mut words: Vec<Value> = vec![sha.as_str().into(), Value::Integer(5)];
                for name in ["meta", "side", "writer", "head", "history"] {
                    words.push(format!("realtime:{{p{lane:02}}}:{name}:app_default:production:load").into());
                }
                words.push("0123456789abcdef0123:100000".into());
                words.push(format!("realtime:event:app_default:production:load.topic{lane}").into());
                words.extend((0..batch).map(|_| Value::from(event.as_str())));
                let _: Value = client.custom(command("EVALSHA"), words).await.expect("run");
            }
        })
        .await;
    Used::of(&server).since(before, events)
}

#[tokio::main]
async fn main() {
    // Nobody has installed another.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut arguments = std::env::args().skip(1);
    let persistence = match arguments.next().as_deref() {
        Some("always") => Persistence::Always,
        Some("nothing") => Persistence::Nothing,
        _ => Persistence::EverySecond,
    };
    let events = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(100_000);
    println!("{persistence:?}, {events} events of about 370 bytes, {LANES} topics");
    for batch in [1, 10, 100, 500] {
        let events = if batch == 1 { events / 5 } else { events };
        let (bare, ours) = (bare(persistence, events, batch).await, ours(persistence, events, batch).await);
        println!(
            "batches of {batch:>3}: processor {:5.1} and {:5.1} µs, × {:.2}; in scripts {:5.1} and {:5.1} µs, × {:.2}",
            bare.processor,
            ours.processor,
            ours.processor / bare.processor,
            bare.scripts,
            ours.scripts,
            ours.scripts / bare.scripts,
        );
    }
}
