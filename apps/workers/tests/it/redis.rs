//! One target and what becomes of its leader, where leases and events are on Redis.

use crate::{
    bench::{Bench, Store},
    harness::{Platform, Worker, until},
};
use event_log::{EventLog as _, HistoryQuery, PageLimit, Start, TopicKey};
use metrics::Metrics;
use redis_layer::{RedisSettings, event_log::RedisEventLog};
use serde_json::Value;
use shared_types::{Position, Scope, TopicName};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use testkit::{LocalRedis, Persistence};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(3);

/// Leases and events are on a Redis.
struct OnRedis {
    redis: LocalRedis,
    /// What the workers append to.
    log: Arc<RedisEventLog>,
    _tasks: JoinSet<()>,
}

impl Store for OnRedis {
    async fn keys(&self, _: &Platform, scope: &Scope) -> Vec<i64> {
        let key = TopicKey::new(scope, &TopicName::parse("order.made").unwrap());
        // While Redis comes back there is no answer.
        let Ok(head) = self.log.head(&key).await else { return Vec::new() };
        let limit = PageLimit { events: 1_000, bytes: 1 << 20 };
        let query = HistoryQuery { start: Start::After(Position::new(head.epoch, 0)), until: None, limit };
        let Ok(page) = self.log.history(&key, query).await else { return Vec::new() };
        let id = |payload: &str| serde_json::from_str::<Value>(payload).unwrap()["id"].as_i64().unwrap();
        page.events.iter().map(|event| id(event.payload.as_str())).collect()
    }

    async fn candidates(&self, _: &Platform) -> i64 {
        // While Redis comes back there is no answer.
        let listening = self.redis.command(&["PUBSUB", "NUMSUB", "realtime:{leases}"]).pop();
        listening.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

async fn bench() -> Bench<OnRedis> {
    let redis = LocalRedis::start(Persistence::Always);
    let platform = Platform { redis_url: Some(redis.url()), ..Platform::new().await };
    platform::install_crypto();
    let mut tasks = JoinSet::new();
    let (settings, pool) = (RedisSettings::new(redis.url()), platform.database.pool.clone());
    let stop = CancellationToken::new();
    let log = RedisEventLog::start(settings, pool, Metrics::new(), &mut tasks, stop).unwrap();
    Bench::new(platform, OnRedis { redis, log, _tasks: tasks }).await
}

impl Bench<OnRedis> {
    /// The key of the target's lease.
    fn lease(&self) -> String {
        self.store.redis.command(&["KEYS", "realtime:{leases}:cdc/*"]).pop().unwrap()
    }

    /// Term and holder, as they are in Redis.
    fn held(&self) -> String {
        self.store.redis.command(&["GET", &self.lease()]).pop().unwrap()
    }

    /// The keys of the rows whose changes wait for the log, in order.
    async fn spilled(&self) -> Vec<i64> {
        let sql =
            "select array(select (payload::json ->> 'id')::bigint from cdc_spilled_events order by number)";
        self.platform.ask(sql).await
    }

    /// The last term that was counted.
    async fn term(&self) -> i64 {
        self.platform.ask("select max(term) from leases where name like 'cdc/%'").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() {
    let mut bench = bench().await;
    let mut leading = bench.leading().await;
    for _ in 0..3 {
        let waiting = bench.waiting().await;
        let (held, lease, term) = (bench.held(), bench.lease(), bench.term().await);
        assert!(leading.leads(held.strip_prefix(&format!("{term} ")).unwrap()), "{held}");
        let left_ms: u64 = bench.store.redis.command(&["PTTL", &lease])[0].parse().unwrap();
        let begun = Instant::now();
        leading.signal("-TERM");
        bench.insert().await;
        until("another term", async || bench.term().await > term).await;
        let handed_over = begun.elapsed();
        assert!(handed_over < Duration::from_millis(left_ms), "it waited until it ran out: {handed_over:?}");
        bench.led_by(&waiting).await;
        bench.all_arrive().await;
        eprintln!("handed over after {handed_over:?}, reading after {:?}", begun.elapsed());
        assert!(leading.wait().success(), "it ends in order");
        leading = waiting;
    }
    leading.signal("-TERM");
    assert!(leading.wait().success());
    assert_eq!(bench.store.redis.command(&["KEYS", "realtime:{leases}:*"]), [""; 0], "it was given back");
    bench.target.drop_slot().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_is_replaced_within_five_seconds() {
    bench().await.replaces_dead_leaders().await;
}

/// Inserts rows until longer after than a lease lasts, and sees each of them kept.
async fn spill(bench: &mut Bench<OnRedis>) {
    let begun = Instant::now();
    let before = bench.inserted;
    while begun.elapsed() < LEASE + Duration::from_secs(2) {
        bench.insert().await;
        until("it is spilled", async || bench.spilled().await.last() == Some(&bench.inserted)).await;
    }
    // What came before is among it where its acknowledgement was lost with the server.
    let spilled = bench.spilled().await;
    let refused: Vec<_> = (before + 1..=bench.inserted).collect();
    assert!(spilled == refused || spilled == [&[before], &*refused].concat(), "{before}: {spilled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_goes_on_while_redis_is_away() {
    let mut bench = bench().await;
    let (mut leading, mut waiting) = (Worker::start(&bench.platform), None);
    bench.led_by(&leading).await;
    for _ in 0..2 {
        bench.insert().await;
        bench.all_arrive().await;
        let term = bench.term().await;
        bench.store.redis.kill();
        spill(&mut bench).await;
        assert_eq!(bench.term().await, term, "nobody else leads meanwhile");
        bench.store.redis.restart();
        bench.insert().await;
        bench.all_arrive().await;
        // It is in the log before it is removed.
        until("nothing is spilled", async || bench.spilled().await.is_empty()).await;
        // The second time somebody waits, and may be the one who leads afterwards.
        bench.candidates(1 + i64::from(waiting.is_some())).await;
        if waiting.is_none() {
            assert_eq!(bench.term().await, term, "who was alone leads on");
            waiting = Some(Worker::start(&bench.platform));
            bench.candidates(2).await;
        }
    }
    for worker in [&mut leading, waiting.as_mut().unwrap()] {
        worker.signal("-TERM");
        assert!(worker.wait().success());
    }
    assert_eq!(bench.keys().await, (1..=bench.inserted).collect::<Vec<_>>());
    bench.finish([]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_leader_spilled_is_sent_by_the_next() {
    let mut bench = bench().await;
    let mut leading = bench.leading().await;
    let waiting = bench.waiting().await;
    let term = bench.term().await;
    bench.store.redis.kill();
    spill(&mut bench).await;
    leading.signal("-KILL");
    bench.insert().await;
    assert_eq!(bench.term().await, term);
    let begun = Instant::now();
    bench.store.redis.restart();
    bench.led_by(&waiting).await;
    bench.all_arrive().await;
    eprintln!("sent {:?} after redis came back", begun.elapsed());
    assert!(bench.term().await > term);
    until("nothing is spilled", async || bench.spilled().await.is_empty()).await;
    bench.finish([waiting]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_finds_another_leading_when_it_wakes() {
    let mut bench = bench().await;
    let mut leading = bench.leading().await;
    let mut waiting = Worker::start(&bench.platform);
    bench.candidates(2).await;
    for _ in 0..2 {
        bench.insert().await;
        bench.all_arrive().await;
        leading.signal("-STOP");
        bench.insert().await;
        bench.led_by(&waiting).await;
        bench.all_arrive().await;
        let term = bench.term().await;
        leading.signal("-CONT");
        // Longer than it takes to renew.
        let begun = Instant::now();
        while begun.elapsed() < LEASE {
            bench.insert().await;
            bench.all_arrive().await;
        }
        assert_eq!(bench.term().await, term, "it does not come back");
        assert!(waiting.leads(bench.held().strip_prefix(&format!("{term} ")).unwrap()));
        std::mem::swap(&mut leading, &mut waiting);
    }
    bench.finish([waiting, leading]).await;
}

/// The way of one process to Redis, which can be cut, or hold the answers back.
struct Way {
    port: u16,
    cut: watch::Sender<bool>,
    mute: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Way {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, mut carrying) = (listener.local_addr().unwrap().port(), JoinSet::new());
        let (cut, mute) = (watch::Sender::new(false), watch::Sender::new(false));
        let (is_cut, is_mute) = (cut.subscribe(), mute.subscribe());
        carrying.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (here, _) = listener.accept().await.unwrap();
                let (mut is_cut, is_mute) = (is_cut.clone(), is_mute.clone());
                connections.spawn(async move {
                    // While the server is down there is nothing to carry to.
                    let Ok(there) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let (mut asked, mut ask) = here.into_split();
                    let (answers, mut questions) = there.into_split();
                    // Either end may close it.
                    tokio::select! {
                        _ = tokio::io::copy(&mut asked, &mut questions) => {}
                        _ = carry_answers(answers, &mut ask, is_mute) => {}
                        _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                    }
                });
            }
        });
        Self { port, cut, mute, _carrying: carrying }
    }
}

/// Carries answers, but for those that come while they are held back.
async fn carry_answers(
    mut from: OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut is_mute: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut answer = [0; 4096];
    loop {
        let length = from.read(&mut answer).await?;
        if length == 0 || is_mute.wait_for(|is_mute| !is_mute).await.is_err() {
            return Ok(());
        }
        to.write_all(&answer[..length]).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_took_without_an_answer_is_in_it_once() {
    let mut bench = bench().await;
    let way = Way::to(bench.store.redis.port()).await;
    bench.platform.redis_url = Some(format!("redis://127.0.0.1:{}", way.port));
    let leading = bench.leading().await;
    bench.insert().await;
    bench.all_arrive().await;
    way.mute.send_replace(true);
    bench.insert().await;
    bench.all_arrive().await;
    bench.store.redis.kill();
    // The answer is lost with the connection.
    way.cut.send_replace(true);
    spill(&mut bench).await;
    assert_eq!(bench.spilled().await.first(), Some(&2), "nobody knows that the log has it");
    way.mute.send_replace(false);
    way.cut.send_replace(false);
    bench.store.redis.restart();
    bench.insert().await;
    bench.all_arrive().await;
    until("nothing is spilled", async || bench.spilled().await.is_empty()).await;
    bench.finish([leading]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_alone_is_cut_off_from_redis_gives_way() {
    let mut bench = bench().await;
    let way = Way::to(bench.store.redis.port()).await;
    let direct = bench.platform.redis_url.replace(format!("redis://127.0.0.1:{}", way.port));
    let cut_off = Worker::start(&bench.platform);
    bench.platform.redis_url = direct;
    bench.led_by(&cut_off).await;
    let mut waiting = bench.waiting().await;
    let term = bench.term().await;
    way.cut.send_replace(true);
    let begun = Instant::now();
    while begun.elapsed() < LEASE + Duration::from_secs(4) {
        bench.insert().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.led_by(&waiting).await;
    bench.all_arrive().await;
    assert_eq!(bench.term().await, term + 1, "they do not take it from each other");
    // With nobody else there it waits for its way back.
    waiting.signal("-TERM");
    assert!(waiting.wait().success());
    bench.insert().await;
    way.cut.send_replace(false);
    bench.led_by(&cut_off).await;
    bench.all_arrive().await;
    bench.finish([cut_off]).await;
}
