//! What every implementation must do, as tests over two processes that share one place of leases.

use crate::{LEASE, Leader, RENEW};
use futures::future::BoxFuture;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that ought to happen soon.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time in which a dead leader is replaced.
const REPLACED: Duration = Duration::from_secs(5);
/// A wake-up that comes sooner is none that the clock brought.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Takes what is known of the holder of a lease away, as losing data does; counted terms stay.
pub type Lose = Box<dyn Fn(&str) -> BoxFuture<'static, ()> + Send + Sync>;

/// The leases under test: both processes are connected and hear of what is given back.
pub struct Leases {
    /// Two processes.
    pub leaders: [Arc<dyn Leader>; 2],
    /// Loses the holder of one.
    pub lose: Lose,
}

/// Writes a `#[tokio::test]` for each part of the contract; `$start` is an async function that answers a guard and
/// leases.
#[macro_export]
macro_rules! contract_tests {
    ($start:path) => {
        $crate::contract_tests!(
            $start;
            a_lease_has_one_holder,
            terms_only_grow,
            what_was_given_back_is_over,
            who_renews_keeps_it,
            who_does_not_renew_is_replaced,
            a_lease_that_ran_out_untaken_is_taken_again,
            who_waits_is_told_at_once,
            who_waits_looks_by_itself,
            a_lost_lease_has_one_holder_again,
        );
    };
    ($start:path; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (_guard, leases) = $start().await;
                $crate::contract::$name(leases).await;
            }
        )*
    };
}

async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, happens).await {
        Ok(value) => value,
        Err(_) => panic!("{what} within {PATIENCE:?}"),
    }
}

/// Waits as a process does that would like to lead.
async fn wait_for(leader: &Arc<dyn Leader>, name: &str) -> u64 {
    let waiting = async {
        loop {
            let freed = leader.freed(name);
            if let Some(term) = leader.acquire(name, "waiting").await.expect("an answer") {
                return term;
            }
            freed.await;
        }
    };
    soon("the lease", waiting).await
}

/// While one holds it the other does not get it; other leases are others.
pub async fn a_lease_has_one_holder(leases: Leases) {
    let [a, b] = &leases.leaders;
    let (name, other) = ("cdc/7012345:{0}/slot_é", "cdc/7012345:{0}/slot_é2");
    let term = a.acquire(name, "1:a").await.expect("an answer").expect("it is free");
    assert_eq!(b.acquire(name, "2:b").await.expect("an answer"), None);
    assert_eq!(a.acquire(name, "1:a").await.expect("an answer"), None, "it is held, if by oneself");
    assert!(b.acquire(other, "2:b").await.expect("an answer").is_some());
    assert!(a.renew(name, term).await.expect("an answer"));
    // Many who want it at once.
    a.release(name, term).await.expect("given back");
    let wanting = (0..16).map(|number| leases.leaders[number % 2].acquire(name, "any"));
    let got = futures::future::join_all(wanting).await;
    let terms: Vec<u64> = got.into_iter().filter_map(|answer| answer.expect("an answer")).collect();
    assert_eq!(terms.len(), 1, "{terms:?}");
    assert!(terms[0] > term);
}

/// Each holder's term is higher than all before, and an old one does nothing.
pub async fn terms_only_grow(leases: Leases) {
    let mut last = 0;
    for round in 0..6 {
        let leader = &leases.leaders[round % 2];
        let term = leader.acquire("cdc/a", "holder").await.expect("an answer").expect("it is free");
        assert!(term > last, "{term} after {last}");
        if last > 0 {
            assert!(!leader.renew("cdc/a", last).await.expect("an answer"));
            leader.release("cdc/a", last).await.expect("an answer");
            assert!(leader.renew("cdc/a", term).await.expect("an answer"), "an old term gives nothing back");
        }
        leader.release("cdc/a", term).await.expect("given back");
        last = term;
    }
}

/// Who has given it back cannot go on.
pub async fn what_was_given_back_is_over(leases: Leases) {
    let [a, b] = &leases.leaders;
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("it is free");
    a.release("cdc/a", term).await.expect("given back");
    assert!(!a.renew("cdc/a", term).await.expect("an answer"));
    a.release("cdc/a", term).await.expect("twice does no harm");
    assert!(b.acquire("cdc/a", "2:b").await.expect("an answer").is_some());
}

/// Longer than a lease lasts.
pub async fn who_renews_keeps_it(leases: Leases) {
    let [a, b] = &leases.leaders;
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("it is free");
    let ends = Instant::now() + LEASE + RENEW * 2;
    while Instant::now() < ends {
        b.freed("cdc/a").await;
        assert!(a.renew("cdc/a", term).await.expect("an answer"));
        assert_eq!(b.acquire("cdc/a", "2:b").await.expect("an answer"), None);
    }
}

/// A holder that died, or that does not come to it, and what it is told when it does.
pub async fn who_does_not_renew_is_replaced(leases: Leases) {
    let [a, b] = &leases.leaders;
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("it is free");
    let begun = Instant::now();
    let next = wait_for(b, "cdc/a").await;
    let took = begun.elapsed();
    assert!(took < REPLACED, "{took:?}");
    assert!(next > term);
    assert!(!a.renew("cdc/a", term).await.expect("an answer"));
    a.release("cdc/a", term).await.expect("an answer");
    assert!(b.renew("cdc/a", next).await.expect("an answer"), "the old holder has nothing to give back");
}

/// Its leader may have been the only one, or leases may not have answered.
pub async fn a_lease_that_ran_out_untaken_is_taken_again(leases: Leases) {
    let [a, b] = &leases.leaders;
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("it is free");
    sleep(LEASE + AT_ONCE).await;
    assert!(a.renew("cdc/a", term).await.expect("an answer"));
    assert_eq!(b.acquire("cdc/a", "2:b").await.expect("an answer"), None);
}

/// Giving back wakes whoever waits for this lease, and nobody else.
pub async fn who_waits_is_told_at_once(leases: Leases) {
    let [a, b] = &leases.leaders;
    for _ in 0..3 {
        let term = wait_for(a, "cdc/a").await;
        let (freed, other) = (b.freed("cdc/a"), b.freed("cdc/b"));
        assert_eq!(b.acquire("cdc/a", "2:b").await.expect("an answer"), None);
        a.release("cdc/a", term).await.expect("given back");
        let begun = Instant::now();
        freed.await;
        let took = begun.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        let next = b.acquire("cdc/a", "2:b").await.expect("an answer").expect("it is free");
        other.await;
        assert!(begun.elapsed() > AT_ONCE, "another lease was not given back");
        b.release("cdc/a", next).await.expect("given back");
    }
}

/// Whether or not anything is told.
pub async fn who_waits_looks_by_itself(leases: Leases) {
    let [a, b] = &leases.leaders;
    let freed = b.freed("cdc/a");
    let begun = Instant::now();
    freed.await;
    let took = begun.elapsed();
    assert!(took < RENEW + AT_ONCE, "{took:?}");
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer");
    assert!(term.is_some(), "looking takes nothing");
}

/// Leases that were lost under their holder: it takes its own again, or gives way for good.
pub async fn a_lost_lease_has_one_holder_again(leases: Leases) {
    let [a, b] = &leases.leaders;
    let term = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("it is free");
    (leases.lose)("cdc/a").await;
    let held = a.renew("cdc/a", term).await.expect("an answer");
    let taken = b.acquire("cdc/a", "2:b").await.expect("an answer");
    assert_eq!(held, taken.is_none(), "one of them leads");
    assert!(taken.is_none_or(|taken| taken > term));
    if held {
        a.release("cdc/a", term).await.expect("given back");
    }
    // And where another comes first.
    let term = match taken {
        Some(taken) => taken,
        None => wait_for(b, "cdc/a").await,
    };
    (leases.lose)("cdc/a").await;
    let next = a.acquire("cdc/a", "1:a").await.expect("an answer").expect("nobody is known to hold it");
    assert!(next > term);
    assert!(!b.renew("cdc/a", term).await.expect("an answer"));
    assert!(a.renew("cdc/a", next).await.expect("an answer"));
}
