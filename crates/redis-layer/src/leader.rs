//! Leases on Redis: a key each, whose value says term and holder.
//!
//! A term must not come again whatever Redis loses, so that it is counted elsewhere ([`Terms`]). A lease is therefore
//! taken in three steps: claimed, counted, and held where the claim still stands. Whoever dies in between leaves a claim
//! that runs out as leases do. What Redis lost is taken again by its holder in the same way, in its own term as long as
//! no later one was counted. The scripts belong to no generation and are sent with each call, so that leases can be had
//! from any server, whatever it has forgotten.
//!
//! A lease that is given back is told by publish/subscribe. When the lease that another holds runs out is known from
//! asking for it.

use crate::{
    connection::{Link, Links, linked},
    error::RedisError,
    event_log::RedisEventLog,
    keys::{self, Announcing},
    scripts::leases as scripts,
};
use fred::{
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{CustomCommand, FromValue, config::Options},
};
use futures::future::BoxFuture;
use leadership::{Answer, LEASE, Leader, LeadershipError, RENEW, Terms};
use parking_lot::Mutex;
use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long one step may take.
const STEP: Duration = Duration::from_secs(1);
/// How long counting a term may take.
const COUNT: Duration = Duration::from_millis(1_500);
/// How long to wait before subscribing is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long after its time a lease is looked at.
const MARGIN: Duration = Duration::from_millis(2);
/// Names of leases that were given back and not yet looked at; who misses one looks a second later.
const FREED: usize = 64;

/// Leases on Redis, one a process.
pub struct RedisLeader(Arc<Leases>);

struct Leases {
    links: Links,
    terms: Arc<dyn Terms>,
    /// The name of what was given back; none where it may have been any.
    freed: broadcast::Sender<Option<Arc<str>>>,
    /// When leases that others hold run out, as far as that is known.
    ends: Mutex<HashMap<String, Instant>>,
    /// Claims of which it is not known whether Redis has taken them: asked for again, they need not run out first.
    unsure: Mutex<HashMap<String, String>>,
}

/// What renewing has found.
enum Held {
    Renewed,
    ByNobody,
    Claimed,
    ByAnother,
}

impl RedisLeader {
    /// Leases over the connections of `log`, whose terms are counted by `terms`. Starts to follow what is given back in
    /// `tasks`, until `stop`.
    ///
    /// Neither place need be reachable yet.
    pub fn start(
        log: &RedisEventLog,
        terms: Arc<dyn Terms>,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (freed, links) = (broadcast::Sender::new(FREED), log.links());
        let (told, following) = (freed.clone(), links.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(following, told) => stop.cancelled().await,
            }
        });
        let (ends, unsure) = Default::default();
        Arc::new(Self(Arc::new(Leases { links, terms, freed, ends, unsure })))
    }
}

impl Leader for RedisLeader {
    fn acquire(&self, name: &str, holder: &str) -> Answer<Option<u64>> {
        let (leases, name, holder) = (self.0.clone(), name.to_owned(), holder.to_owned());
        Box::pin(async move { leases.acquire(&name, &holder).await })
    }

    fn renew(&self, name: &str, term: u64) -> Answer<bool> {
        let (leases, name) = (self.0.clone(), name.to_owned());
        Box::pin(async move { leases.renew(&name, term).await })
    }

    fn release(&self, name: &str, term: u64) -> Answer<()> {
        let (leases, name) = (self.0.clone(), name.to_owned());
        Box::pin(async move { leases.release(&name, term).await })
    }

    fn freed(&self, name: &str) -> BoxFuture<'static, ()> {
        let (leases, mut freed, name) = (self.0.clone(), self.0.freed.subscribe(), name.to_owned());
        Box::pin(async move {
            let looks = leases.next_look(&name);
            let told = async {
                // Having missed one is reason enough to look.
                while freed.recv().await.is_ok_and(|freed| freed.is_some_and(|freed| *freed != *name)) {}
            };
            let _ = tokio::time::timeout_at(looks, told).await;
        })
    }
}

async fn within<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, LeadershipError>>,
) -> Result<T, LeadershipError> {
    let late = || Err(LeadershipError("terms are not counted in time".to_owned()));
    tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| late())
}

fn unsettled() -> LeadershipError {
    LeadershipError("another process is asking for it".to_owned())
}

fn length_ms() -> String {
    LEASE.as_millis().to_string()
}

impl Leases {
    async fn acquire(&self, name: &str, holder: &str) -> Result<Option<u64>, LeadershipError> {
        let Some(claim) = self.claim(name, holder).await? else { return Ok(None) };
        match within(COUNT, self.terms.raise(name, holder)).await {
            Ok(Some(term)) => {
                let is_held = self.hold(name, &claim, term, holder).await?;
                Ok(is_held.then_some(term))
            }
            refused => {
                self.drop_quietly(name, &claim).await;
                refused
            }
        }
    }

    async fn renew(&self, name: &str, term: u64) -> Result<bool, LeadershipError> {
        let (held, counted) =
            tokio::join!(self.prolong(name, term), within(STEP, self.terms.holder(name, term)));
        // A later term was counted, whatever Redis knows of it: by a process that does without Redis, or cannot be
        // reached by the same one.
        if matches!(counted, Ok(None)) {
            self.drop_quietly(name, &format!("{term} ")).await;
            return Ok(false);
        }
        match held? {
            Held::Renewed => Ok(true),
            Held::ByAnother => Ok(false),
            // It may come to nothing.
            Held::Claimed => Err(unsettled()),
            Held::ByNobody => self.take_again(name, term).await,
        }
    }

    /// Takes a lease again that Redis has lost or let run out, unless a later term was counted.
    async fn take_again(&self, name: &str, term: u64) -> Result<bool, LeadershipError> {
        let Some(claim) = self.claim(name, "").await? else { return Err(unsettled()) };
        // Only now: as long as the claim stands nobody else counts.
        match within(STEP, self.terms.holder(name, term)).await {
            Ok(Some(holder)) if self.hold(name, &claim, term, &holder).await? => {
                tracing::info!(lease = name, lease.term = term, "took a lease again that redis had lost");
                Ok(true)
            }
            Ok(Some(_)) => Err(unsettled()),
            refused => {
                self.drop_quietly(name, &claim).await;
                refused.map(|_| false)
            }
        }
    }

    async fn release(&self, name: &str, term: u64) -> Result<(), LeadershipError> {
        let (dropped, ended) =
            tokio::join!(self.drop_and_tell(name, term), within(STEP, self.terms.end(name, term)));
        if let Err(error) = ended {
            // It is free all the same.
            tracing::debug!(%error, lease = name, "could not note that a term is over");
        }
        dropped
    }

    /// Claims the lease; `None` where it is held or claimed.
    async fn claim(&self, name: &str, holder: &str) -> Result<Option<String>, LeadershipError> {
        let unsure = self.unsure.lock().remove(name);
        let claim = unsure.unwrap_or_else(|| format!("? {:016x} {holder}", rand::random::<u64>()));
        let claimed = self.run::<Option<i64>>(scripts::CLAIM, name, vec![claim.clone(), length_ms()]).await;
        match claimed {
            Ok(None) => {
                self.ends.lock().remove(name);
                Ok(Some(claim))
            }
            Ok(Some(left_ms)) => {
                let left = Duration::from_millis(left_ms.max(0).unsigned_abs()).min(LEASE);
                self.ends.lock().insert(name.to_owned(), Instant::now() + left + MARGIN);
                Ok(None)
            }
            Err(error) => {
                self.unsure.lock().insert(name.to_owned(), claim);
                Err(error)
            }
        }
    }

    async fn hold(&self, name: &str, claim: &str, term: u64, holder: &str) -> Result<bool, LeadershipError> {
        let value = format!("{term} {holder}");
        let held: i64 = self.run(scripts::HOLD, name, vec![claim.to_owned(), value, length_ms()]).await?;
        Ok(held == 1)
    }

    async fn prolong(&self, name: &str, term: u64) -> Result<Held, LeadershipError> {
        let found: String = self.run(scripts::RENEW, name, vec![term.to_string(), length_ms()]).await?;
        match found.as_str() {
            "R" => Ok(Held::Renewed),
            "G" => Ok(Held::ByNobody),
            "C" => Ok(Held::Claimed),
            "T" => Ok(Held::ByAnother),
            other => Err(LeadershipError(format!("an unknown answer: {other}"))),
        }
    }

    /// Drops the lease or claim whose value begins with `beginning`. Nobody is told: whoever came next would be refused as
    /// this one was.
    async fn drop_quietly(&self, name: &str, beginning: &str) {
        let arguments = vec![beginning.to_owned(), String::new()];
        if let Err(error) = self.run::<i64>(scripts::DROP, name, arguments).await {
            tracing::debug!(%error, lease = name, "a lease or a claim could not be dropped; it runs out by itself");
        }
    }

    async fn drop_and_tell(&self, name: &str, term: u64) -> Result<(), LeadershipError> {
        let command = self.link().await?.announcing.command();
        let told = [&format!("{term} "), command, keys::LEASES_FREED, name].map(str::to_owned).to_vec();
        self.run::<i64>(scripts::DROP, name, told).await.map(drop)
    }

    async fn link(&self) -> Result<Arc<Link>, LeadershipError> {
        linked(&self.links, STEP).await.map_err(|error| failed(&error))
    }

    /// Runs a script on a lease. A call that was not sent in time is not sent any more.
    async fn run<T: FromValue>(
        &self,
        script: &'static str,
        name: &str,
        arguments: Vec<String>,
    ) -> Result<T, LeadershipError> {
        let link = self.link().await?;
        let mut all = vec![script.to_owned(), "1".to_owned(), keys::lease(name)];
        all.extend(arguments);
        let options = Options { timeout: Some(STEP), fail_fast: true, ..Options::default() };
        let eval = CustomCommand::new_static("EVAL", keys::leases_slot(), false);
        let answer = link.reads.with_options(&options).custom(eval, all).await;
        answer.map_err(|error| failed(&RedisError::from(error)))
    }

    /// When to look whether the lease has become free.
    fn next_look(&self, name: &str) -> Instant {
        let (now, mut ends) = (Instant::now(), self.ends.lock());
        let latest = now + RENEW;
        match ends.get(name) {
            Some(end) if *end > now => latest.min(*end),
            Some(_) => {
                ends.remove(name);
                latest
            }
            None => latest,
        }
    }
}

fn failed(error: &RedisError) -> LeadershipError {
    LeadershipError(error.to_string())
}

/// Tells `freed` what is given back, for as long as there is a connection to come back.
async fn follow(links: Links, freed: broadcast::Sender<Option<Arc<str>>>) {
    let Ok(Some(link)) = links.clone().wait_for(Option::is_some).await.map(|link| link.clone()) else {
        return;
    };
    let (mut messages, mut lapses) = (link.subscriber.message_rx(), link.lapses.clone());
    let mut is_subscribed = false;
    loop {
        if !is_subscribed {
            is_subscribed = subscribe(&link).await;
            // What was given back meanwhile was not heard.
            drop(freed.send(None));
        }
        tokio::select! {
            lapsed = lapses.changed() => {
                if lapsed.is_err() {
                    return;
                }
                is_subscribed = false;
            }
            () = tokio::time::sleep(RETRY), if !is_subscribed => {}
            message = messages.recv() => match message {
                Ok(message) if *message.channel == *keys::LEASES_FREED => {
                    let name = message.value.into_bytes_str().map(|name| Arc::from(&*name));
                    // Nobody may be waiting for it.
                    drop(freed.send(name));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => drop(freed.send(None)),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

/// Subscribes to what is given back; whether that was sent.
async fn subscribe(link: &Link) -> bool {
    let subscribed = match link.announcing {
        Announcing::Plain => link.subscriber.subscribe(keys::LEASES_FREED).await,
        Announcing::Sharded => link.subscriber.ssubscribe(keys::LEASES_FREED).await,
    };
    subscribed.is_ok()
}
