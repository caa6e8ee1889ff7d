//! What becomes of leases when servers die, forget and are set back.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use crate::harness::{Instance, listening, soon};
use database::leader::PostgresLeader;
use futures::future::BoxFuture;
use leadership::{Answer, LEASE, Leader, LeadershipError, RENEW, Terms};
use redis_layer::{RedisLeader, RedisSettings};
use std::{sync::Arc, time::Duration};
use testkit::{LocalRedis, Persistence, TestDatabase, until};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

const NAME: &str = "cdc/7012345/slot";
const KEY: &str = "realtime:{leases}:cdc/7012345/slot";

/// Two processes that would like to lead.
struct Bench {
    server: LocalRedis,
    database: TestDatabase,
    leaders: [Arc<RedisLeader>; 2],
    _instances: [Instance; 2],
}

impl Bench {
    async fn new(persistence: Persistence) -> Self {
        let (server, database) = (LocalRedis::start(persistence), testkit::database().await);
        let settings = RedisSettings::new(server.url());
        let mut instances = [(); 2].map(|()| Instance::start(settings.clone(), &database));
        let leaders = instances.each_mut().map(|instance| instance.leader(&database));
        listening(&server, "NUMSUB", 2).await;
        Self { server, database, leaders, _instances: instances }
    }

    fn value(&self) -> String {
        self.server.command(&["GET", KEY]).join("")
    }
}

/// Renews as a leader does, once a second, until there is an answer.
async fn renewed(leader: &Arc<RedisLeader>, term: u64) -> bool {
    let renewing = async {
        loop {
            match leader.renew(NAME, term).await {
                Ok(held) => return held,
                Err(_) => tokio::time::sleep(RENEW).await,
            }
        }
    };
    soon("an answer", renewing).await
}

/// Asks for the lease until there is an answer.
async fn asked(leader: &Arc<RedisLeader>, holder: &str) -> Option<u64> {
    let asking = async {
        loop {
            match leader.acquire(NAME, holder).await {
                Ok(term) => return term,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    soon("an answer", asking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_can_read_who_leads() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, _] = &bench.leaders;
    let first = a.acquire(NAME, "4711:worker_a").await.unwrap().unwrap();
    assert_eq!(bench.value(), format!("{first} 4711:worker_a"));
    let left: u64 = bench.server.command(&["PTTL", KEY])[0].parse().unwrap();
    assert!(left <= 3_000 && left > 1_000, "{left}");
    let noted: (String, i64) = sqlx::query_as("select holder, term from leases where name = $1")
        .bind(NAME)
        .fetch_one(&bench.database.pool)
        .await
        .unwrap();
    assert_eq!(noted, ("4711:worker_a".to_owned(), first as i64));
    bench.server.command(&["DEL", KEY]);
    assert!(a.renew(NAME, first).await.unwrap());
    assert_eq!(bench.value(), format!("{first} 4711:worker_a"), "also when it is taken again");
    a.release(NAME, first).await.unwrap();
    assert_eq!(bench.value(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_scripts_hinder_nobody() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, b] = &bench.leaders;
    let forget = || bench.server.command(&["SCRIPT", "FLUSH"]);
    forget();
    let term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
    forget();
    assert!(a.renew(NAME, term).await.unwrap());
    forget();
    assert_eq!(b.acquire(NAME, "2:b").await.unwrap(), None);
    forget();
    a.release(NAME, term).await.unwrap();
    assert!(b.acquire(NAME, "2:b").await.unwrap().is_some_and(|next| next > term));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_answer_was_lost_is_gone_on_with() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, b] = &bench.leaders;
    // Redis answers nobody for longer than it is waited for, and does then what it was asked.
    bench.server.command(&["CLIENT", "PAUSE", "2500", "ALL"]);
    assert!(a.acquire(NAME, "1:a").await.is_err());
    until("it is claimed", async || bench.value().starts_with("? ")).await;
    assert_eq!(b.acquire(NAME, "2:b").await.unwrap(), None);
    let term = a.acquire(NAME, "1:a").await.unwrap().expect("its own claim is not in its way");
    assert_eq!(bench.value(), format!("{term} 1:a"));
    assert_eq!(b.acquire(NAME, "2:b").await.unwrap(), None);
}

/// While the server is away nobody is told anything; afterwards one leads.
async fn a_killed_server(persistence: Persistence) {
    let mut bench = Bench::new(persistence).await;
    let [a, b] = bench.leaders.clone();
    let term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
    for away in [Duration::ZERO, LEASE + RENEW] {
        bench.server.kill();
        let begun = Instant::now();
        assert!(a.renew(NAME, term).await.is_err(), "nobody says that another leads");
        assert!(b.acquire(NAME, "2:b").await.is_err());
        assert!(begun.elapsed() < LEASE * 2, "an error is an answer too: {:?}", begun.elapsed());
        tokio::time::sleep(away).await;
        bench.server.restart();
        assert!(renewed(&a, term).await, "it was there alone");
        assert_eq!(asked(&b, "2:b").await, None);
    }
    // And where the other comes first.
    bench.server.kill();
    tokio::time::sleep(LEASE).await;
    bench.server.restart();
    let next = asked(&b, "2:b").await.expect("it has run out");
    assert!(next > term);
    assert!(!renewed(&a, term).await);
    assert!(renewed(&b, next).await);
    listening(&bench.server, "NUMSUB", 2).await;
    // Who waits is still told at once.
    let freed = a.freed(NAME);
    b.release(NAME, next).await.unwrap();
    let begun = Instant::now();
    freed.await;
    assert!(begun.elapsed() < RENEW / 2, "{:?}", begun.elapsed());
    // What it asks through may still be on its way back.
    let last = asked(&a, "1:a").await.expect("it is free");
    assert!(last > next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_keeps_everything() {
    a_killed_server(Persistence::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_keeps_nothing() {
    a_killed_server(Persistence::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_has_one_leader_again() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, b] = &bench.leaders;
    let mut term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
    for _ in 0..20 {
        bench.server.command(&["FLUSHALL"]);
        // Both at once, as it happens.
        let (held, taken) = tokio::join!(a.renew(NAME, term), b.acquire(NAME, "2:b"));
        let taken = taken.unwrap();
        // One that met the other's claim asks again.
        let held = match held {
            Ok(held) => held,
            Err(_) => renewed(a, term).await,
        };
        assert_eq!(held, taken.is_none(), "one of them leads");
        if let Some(next) = taken {
            assert!(next > term);
            assert!(!a.renew(NAME, term).await.unwrap());
            b.release(NAME, next).await.unwrap();
            term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
            assert!(term > next);
        }
    }
}

/// A server that is set back to when another led: whoever leads now gives way or takes it again within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_from_the_past_is_over_soon() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, b] = &bench.leaders;
    let past = b.acquire(NAME, "2:b").await.unwrap().unwrap();
    let kept = bench.value();
    b.release(NAME, past).await.unwrap();
    let term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
    bench.server.command(&["SET", KEY, &kept, "PX", "2500"]);
    assert!(!b.renew(NAME, past).await.unwrap(), "whoever it was does not come back");
    let begun = Instant::now();
    let next = soon("somebody leads", async {
        loop {
            if renewed(a, term).await {
                return term;
            }
            a.freed(NAME).await;
            if let Some(next) = a.acquire(NAME, "1:a").await.unwrap() {
                return next;
            }
        }
    })
    .await;
    assert!(next >= term && begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(a.renew(NAME, next).await.unwrap());
}

/// Processes with and without `REDIS_URL`, as while it is being set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_with_and_without_redis_are_one() {
    let mut bench = Bench::new(Persistence::Nothing).await;
    let [with, _] = bench.leaders.clone();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let without = PostgresLeader::start(bench.database.pool.clone(), &mut tasks, stop);
    let first = without.acquire(NAME, "1:a").await.unwrap().unwrap();
    assert_eq!(with.acquire(NAME, "2:b").await.unwrap(), None);
    assert_eq!(bench.value(), "", "no claim stays");
    without.release(NAME, first).await.unwrap();
    let second = with.acquire(NAME, "2:b").await.unwrap().unwrap();
    assert!(second > first);
    // Who does not know of Redis does not wait for it; the other learns of that, even while Redis is away.
    let third = without.acquire(NAME, "1:a").await.unwrap().unwrap();
    assert!(third > second);
    assert!(!with.renew(NAME, second).await.unwrap());
    assert_eq!(with.acquire(NAME, "2:b").await.unwrap(), None);
    without.release(NAME, third).await.unwrap();
    let fourth = with.acquire(NAME, "2:b").await.unwrap().unwrap();
    bench.server.kill();
    assert!(with.renew(NAME, fourth).await.is_err());
    let fifth = without.acquire(NAME, "1:a").await.unwrap().unwrap();
    assert!(fifth > fourth);
    assert!(!with.renew(NAME, fourth).await.unwrap());
    assert!(without.renew(NAME, fifth).await.unwrap());
}

/// Terms that cannot be counted.
struct Away;

impl Away {
    fn answer<T: Send + 'static>() -> BoxFuture<'static, Result<T, LeadershipError>> {
        Box::pin(async { Err(LeadershipError("away".to_owned())) })
    }
}

impl Terms for Away {
    fn raise(&self, _: &str, _: &str) -> Answer<Option<u64>> {
        Self::answer()
    }

    fn holder(&self, _: &str, _: u64) -> Answer<Option<String>> {
        Self::answer()
    }

    fn end(&self, _: &str, _: u64) -> Answer<()> {
        Self::answer()
    }
}

/// Without the database nobody begins to lead, and nobody stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leads_goes_on_while_terms_cannot_be_counted() {
    let bench = Bench::new(Persistence::Nothing).await;
    let [a, _] = &bench.leaders;
    let term = a.acquire(NAME, "1:a").await.unwrap().unwrap();
    // Another process over the same Redis, cut off from the database; terms are only numbers to it.
    let instance = Instance::start(RedisSettings::new(bench.server.url()), &bench.database);
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let cut_off = RedisLeader::start(&instance.log, Arc::new(Away), &mut tasks, stop);
    until("it is connected", async || cut_off.renew("other", 1).await.is_err()).await;
    assert!(soon("an answer", cut_off.renew(NAME, term)).await.unwrap(), "the lease is there");
    bench.server.command(&["DEL", KEY]);
    assert!(cut_off.renew(NAME, term).await.is_err(), "it may have been lost to another");
    assert_eq!(bench.value(), "", "no claim stays");
    assert!(cut_off.acquire(NAME, "3:c").await.is_err());
    assert_eq!(bench.value(), "");
    assert!(a.renew(NAME, term).await.unwrap(), "whoever can ask has it again");
    cut_off.release(NAME, term).await.unwrap();
    assert_eq!(bench.value(), "", "giving back does not wait for the database");
}
