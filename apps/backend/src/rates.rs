//! How often somebody does something in a minute, over all instances where they share a Redis.
//!
//! Owns the counters. Judged at once by what is known here; what was counted is shared a few times a second, all keys
//! together, so that nothing waits for it. With several instances a limit may be passed by what the others let in within
//! that time. Counted over the minute behind now, the part of it that lies in the clock's previous minute by its share.

use dashmap::DashMap;
use redis_layer::{Count, RedisCounters};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

const MINUTE_MS: u64 = 60_000;
/// How often what was counted is shared.
const SHARE: Duration = Duration::from_millis(100);
/// Keys that are counted at once; whoever comes when there are as many shares one counter with the other newcomers.
const KEYS: usize = 100_000;
const OTHERS: &str = "others";

/// Somebody does something too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// After how many seconds another attempt may succeed.
    pub retry_after_seconds: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counter {
    /// Which minute since 1970.
    minute: u64,
    /// What is known of this minute, without what is not shared yet.
    known: u64,
    /// What is not shared yet.
    unshared: u64,
    /// What is known of the minute before.
    before: u64,
}

impl Counter {
    /// Goes on to `minute`.
    fn turn(&mut self, minute: u64) {
        if minute > self.minute {
            let last = self.known + self.unshared;
            let before = if minute == self.minute + 1 { last } else { 0 };
            *self = Self { minute, known: 0, unshared: 0, before };
        }
    }

    fn admit(&mut self, most: u64, now_ms: u64) -> Result<(), Over> {
        self.turn(now_ms / MINUTE_MS);
        let left_ms = MINUTE_MS - now_ms % MINUTE_MS;
        let now = self.known + self.unshared;
        let estimate = self.before * left_ms / MINUTE_MS + now;
        if estimate < most {
            self.unshared += 1;
            return Ok(());
        }
        // What this minute has used up is felt until well into the next one.
        let wait_ms =
            if now >= most { left_ms } else { (estimate + 1 - most) * MINUTE_MS / self.before.max(1) };
        Err(Over { retry_after_seconds: wait_ms.div_ceil(1_000).clamp(1, 60) })
    }
}

/// Counters of this instance.
pub struct Rates {
    counters: DashMap<String, Counter>,
    shared: Option<RedisCounters>,
}

impl Rates {
    /// Counters, shared with other instances by `shared`; [`Rates::run`] shares them.
    pub fn new(shared: Option<RedisCounters>) -> Arc<Self> {
        Arc::new(Self { counters: DashMap::new(), shared })
    }

    /// The key of a client's address: of IPv6 all that one customer usually has.
    pub fn address(address: IpAddr) -> String {
        match address.to_canonical() {
            IpAddr::V4(address) => format!("address:{address}"),
            IpAddr::V6(address) => format!("address:{:x}", address.to_bits() >> 64),
        }
    }

    /// Counts something that `key` does, if it is at most `most` in a minute.
    ///
    /// # Errors
    /// Where it is more; nothing is counted then.
    pub fn admit(&self, key: &str, most: u32) -> Result<(), Over> {
        self.admit_at(key, u64::from(most), now_ms())
    }

    fn admit_at(&self, key: &str, most: u64, now_ms: u64) -> Result<(), Over> {
        let is_new = !self.counters.contains_key(key);
        let key = if is_new && self.counters.len() >= KEYS { OTHERS } else { key };
        self.counters.entry(key.to_owned()).or_default().admit(most, now_ms)
    }

    /// Shares what is counted, and forgets who has long done nothing, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SHARE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let minute = now_ms() / MINUTE_MS;
            self.counters.retain(|_, counter| counter.minute + 2 > minute);
            let Some(shared) = &self.shared else { continue };
            match self.share(shared).await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "rates cannot be shared; each instance counts by itself");
                    }
                }
            }
        }
    }

    async fn share(&self, shared: &RedisCounters) -> Result<(), redis_layer::RedisError> {
        let taken: Vec<Count> = self
            .counters
            .iter_mut()
            .filter(|counter| counter.unshared > 0)
            .map(|mut counter| {
                let add = std::mem::take(&mut counter.unshared);
                // Counted as known from here on, so that it is not forgotten while it is on its way.
                counter.known += add;
                Count { key: counter.key().clone(), minute: counter.minute, add }
            })
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        let totals = shared.add(&taken).await?;
        for (count, total) in taken.iter().zip(totals) {
            if let Some(mut counter) = self.counters.get_mut(&count.key)
                && counter.minute == count.minute
            {
                counter.known = counter.known.max(total.now);
                counter.before = counter.before.max(total.before);
            }
        }
        Ok(())
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u64 = 1_000_000 * MINUTE_MS;

    fn admitted(rates: &Rates, most: u64, at: u64) -> u64 {
        (0..).take_while(|_| rates.admit_at("a", most, BEGIN + at).is_ok()).count() as u64
    }

    #[test]
    fn no_minute_has_more_than_the_limit_whichever_it_begins() {
        let rates = Rates::new(None);
        assert_eq!(admitted(&rates, 60, 59_000), 60);
        assert_eq!(rates.admit_at("a", 60, BEGIN + 59_000), Err(Over { retry_after_seconds: 1 }));
        assert_eq!(admitted(&rates, 60, MINUTE_MS), 0, "all of it was a second ago");
        assert_eq!(rates.admit_at("a", 60, BEGIN + MINUTE_MS), Err(Over { retry_after_seconds: 1 }));
        assert_eq!(admitted(&rates, 60, MINUTE_MS + 30_000), 30);
        assert_eq!(admitted(&rates, 60, 3 * MINUTE_MS), 60, "long ago is forgotten");
        assert!(rates.admit_at("b", 60, BEGIN).is_ok(), "others are not affected");
    }

    #[test]
    fn an_address_of_version_six_is_its_network() {
        let key = |text: &str| Rates::address(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }

    #[test]
    fn newcomers_share_a_counter_when_there_are_many() {
        let rates = Rates::new(None);
        for n in 0..KEYS {
            rates.admit_at(&n.to_string(), 1, BEGIN).expect("the first");
        }
        rates.admit_at("x", 1, BEGIN).expect("the first of the others");
        assert!(rates.admit_at("y", 1, BEGIN).is_err());
    }
}
