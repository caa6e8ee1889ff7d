//! Presence on Redis: a hash a place, a lease an instance, the places that each instance has members in, and what it
//! wrote down of its connections.
//!
//! Each step is a command on one key, so that it runs on a cluster; whoever removes a dead instance's members may die
//! half way, and the next goes on: a member is answered to whoever's `HDEL` removed it.

use crate::{
    connection::{Links, linked, on_key},
    error::RedisError,
};
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface},
    types::{Value as RedisValue, config::Server},
};
use futures::future::{FutureExt as _, try_join_all};
use parking_lot::Mutex;
use presence::{Answer, Entered, Gone, Kind, LEASE, Member, Place, Presence, PresenceError, Record, Renewal};
use serde::{Deserialize, Serialize};
use shared_types::{AppId, Scope};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::broadcast::{self, error::TryRecvError};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Sorted set: when each instance's lease ends, in Unix milliseconds by the server's clock.
const INSTANCES: &str = "realtime:instances";

/// Presence on Redis.
pub struct RedisPresence {
    links: Links,
    reconnects: Reconnects,
}

/// Tells of each time that the connection was made anew: the server behind it may be another one, or one that has
/// lost its last moments. From the first command on.
type Reconnects = Arc<Mutex<Option<broadcast::Receiver<Server>>>>;

/// Takes all there is; answers whether there was any.
fn take_any(reconnects: &mut broadcast::Receiver<Server>) -> bool {
    let mut any = false;
    while !matches!(reconnects.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {
        any = true;
    }
    any
}

impl RedisPresence {
    /// Presence over the process's connections.
    pub(crate) fn new(links: Links) -> Self {
        Self { links, reconnects: Reconnects::default() }
    }

    fn answer<T, F>(&self, work: impl FnOnce(Client) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RedisError>> + Send,
    {
        let (links, reconnects) = (self.links.clone(), self.reconnects.clone());
        async move {
            let done = async move {
                let client = linked(&links, TIMEOUT).await?.reads.clone();
                reconnects.lock().get_or_insert_with(|| client.reconnect_rx());
                work(client).await
            };
            match tokio::time::timeout(TIMEOUT, done).await {
                Ok(done) => done.map_err(|error| PresenceError(error.to_string())),
                Err(_) => Err(PresenceError("no answer in time".to_owned())),
            }
        }
        .boxed()
    }
}

/// A member as it stands in a place's hash, under its socket's id.
#[derive(Serialize, Deserialize)]
struct Held {
    instance: String,
    member: Member,
}

impl Held {
    fn read(text: &str) -> Result<Self, RedisError> {
        serde_json::from_str(text).map_err(|_| RedisError::Internal("a member cannot be read".to_owned()))
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("a member is always JSON")
    }
}

/// Hash: the members of a place, by socket.
fn members_key(scope: &Scope, place: &Place) -> String {
    let (application, environment) = (scope.application(), scope.environment());
    match place.as_document() {
        Some((service, id)) => format!("syncdoc:presence:{application}:{environment}:{service}:{id}"),
        None => format!("realtime:presence:{application}:{environment}:{}", place.text()),
    }
}

/// Sorted set: the places of a kind that may have members, all with score 0, so that they stand by name.
fn places_key(scope: &Scope, kind: Kind) -> String {
    format!("realtime:places:{}:{}:{}", scope.application(), scope.environment(), kind.letter())
}

/// Set: the places in which an instance may have members, as `application`, `environment` and place by line.
fn instance_key(instance: &str) -> String {
    format!("realtime:instance:{instance}")
}

/// Hash: what an instance wrote down of its connections, by key.
fn connections_key(instance: &str) -> String {
    format!("realtime:connections:{instance}")
}

fn line_of(scope: &Scope, place: &Place) -> String {
    format!("{}\n{}\n{}", scope.application(), scope.environment(), place.text())
}

fn read_line(line: &str) -> Option<(Scope, Place)> {
    let mut parts = line.splitn(3, '\n');
    let scope = Scope::new(AppId::from_stored(parts.next()?), parts.next()?.parse().ok()?);
    Some((scope, Place::read(parts.next()?)?))
}

async fn call<T: fred::types::FromValue>(
    client: &Client,
    name: &'static str,
    arguments: Vec<String>,
) -> Result<T, RedisError> {
    Ok(client.custom(on_key(name), arguments).await?)
}

/// The clock of this machine: leases of seconds bear the difference between machines that keep time.
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

async fn all(client: &Client, key: &str) -> Result<BTreeMap<String, Held>, RedisError> {
    let found: Vec<(String, String)> = call(client, "HGETALL", vec![key.to_owned()]).await?;
    found.into_iter().map(|(socket, text)| Ok((socket, Held::read(&text)?))).collect()
}

/// Removes one member; answers whether it was there. A place without members leaves the list of places.
async fn remove(client: &Client, scope: &Scope, place: &Place, socket: &str) -> Result<bool, RedisError> {
    let key = members_key(scope, place);
    let removed: i64 = call(client, "HDEL", vec![key.clone(), socket.to_owned()]).await?;
    let left: i64 = call(client, "HLEN", vec![key]).await?;
    if left == 0 {
        let places = places_key(scope, place.kind);
        let _: i64 = call(client, "ZREM", vec![places.clone(), place.name.clone()]).await?;
        // Somebody may have come between the two.
        let now: i64 = call(client, "HLEN", vec![members_key(scope, place)]).await?;
        if now > 0 {
            let _: i64 = call(client, "ZADD", vec![places, "0".to_owned(), place.name.clone()]).await?;
        }
    }
    Ok(removed == 1)
}

impl Presence for RedisPresence {
    fn enter(&self, scope: &Scope, place: &Place, instance: &str, member: Member) -> Answer<Entered> {
        let (scope, place, instance) = (scope.clone(), place.clone(), instance.to_owned());
        self.answer(async move |client| {
            let key = members_key(&scope, &place);
            // First what finds the member again should the instance die in the middle.
            known(&client, &instance).await?;
            let _: i64 =
                call(&client, "SADD", vec![instance_key(&instance), line_of(&scope, &place)]).await?;
            let before = all(&client, &key).await?;
            let known = before.get(&member.socket_id);
            let joined_at = known.map_or(member.joined_at, |held| held.member.joined_at);
            let held = Held { instance, member: Member { joined_at, ..member } };
            let socket = held.member.socket_id.clone();
            let _: i64 = call(&client, "HSET", vec![key, socket, held.text()]).await?;
            let listed = vec![places_key(&scope, place.kind), "0".to_owned(), place.name.clone()];
            let _: i64 = call(&client, "ZADD", listed).await?;
            let (is_new, Held { instance, member }) = (known.is_none(), held);
            let same =
                |other: &Held| other.member.client_id == member.client_id && other.instance != instance;
            let elsewhere = before.into_values().filter(same).map(|held| (held.instance, held.member));
            Ok(Entered { is_new, elsewhere: elsewhere.collect(), member: member.clone() })
        })
    }

    fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Answer<Option<Member>> {
        let (scope, place, socket) = (scope.clone(), place.clone(), socket_id.to_owned());
        self.answer(async move |client| {
            let key = members_key(&scope, &place);
            let text: Option<String> = call(&client, "HGET", vec![key, socket.clone()]).await?;
            let Some(text) = text else { return Ok(None) };
            let removed = remove(&client, &scope, &place, &socket).await?;
            Ok(if removed { Some(Held::read(&text)?.member) } else { None })
        })
    }

    fn members(
        &self,
        scope: &Scope,
        place: &Place,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<Member>> {
        let (key, after) = (members_key(scope, place), after.unwrap_or_default().to_owned());
        self.answer(async move |client| {
            let members = all(&client, &key).await?.into_iter().filter(|(socket, _)| *socket > after);
            Ok(members.take(limit).map(|(_, held)| held.member).collect())
        })
    }

    fn places(
        &self,
        scope: &Scope,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<(String, u64)>> {
        let (scope, after) = (scope.clone(), after.map_or("-".to_owned(), |after| format!("({after}")));
        self.answer(async move |client| {
            let key = places_key(&scope, kind);
            let range =
                vec![key, after, "+".to_owned(), "LIMIT".to_owned(), "0".to_owned(), limit.to_string()];
            let names: Vec<String> = call(&client, "ZRANGEBYLEX", range).await?;
            let counts = names.iter().map(async |name| {
                let place = Place { kind, name: name.clone() };
                call::<u64>(&client, "HLEN", vec![members_key(&scope, &place)]).await
            });
            let counts = try_join_all(counts).await?;
            Ok(names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect())
        })
    }

    fn renew(&self, instance: &str) -> Answer<Renewal> {
        let (instance, reconnects) = (instance.to_owned(), self.reconnects.clone());
        self.answer(async move |client| {
            let key = INSTANCES.to_owned();
            let before: Option<f64> = call(&client, "ZSCORE", vec![key.clone(), instance.clone()]).await?;
            let now = now_ms();
            let until = now + LEASE.as_millis() as i64;
            let _: RedisValue = call(&client, "ZADD", vec![key, until.to_string(), instance]).await?;
            // Only now: without an answer, the next renewal is the one to tell.
            let reconnected = reconnects.lock().as_mut().is_some_and(take_any);
            Ok(match before.is_some_and(|until| until > now as f64) {
                false => Renewal::Lapsed,
                true if reconnected => Renewal::Emptied,
                true => Renewal::Held,
            })
        })
    }

    fn retire(&self, instance: &str) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            // Not removed: whoever reaps next finds it, with the members that it may still have.
            let over = vec![INSTANCES.to_owned(), "XX".to_owned(), "0".to_owned(), instance];
            let _: RedisValue = call(&client, "ZADD", over).await?;
            Ok(())
        })
    }

    fn dead(&self) -> Answer<Vec<String>> {
        self.answer(async move |client| {
            let mut dead = over(&client).await?;
            dead.sort();
            Ok(dead)
        })
    }

    fn left_by(&self, instance: &str) -> Answer<Vec<Gone>> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            let mut left = Vec::new();
            for line in lines(&client, &instance).await? {
                let Some((scope, place)) = read_line(&line) else { continue };
                for member in held_by(&client, &scope, &place, &instance).await? {
                    left.push(Gone { scope: scope.clone(), place: place.clone(), member });
                }
            }
            Ok(left)
        })
    }

    fn reap(&self, instance: &str) -> Answer<Vec<Gone>> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            let mut gone = Vec::new();
            if over(&client).await?.contains(&instance) {
                bury(&client, &instance, &mut gone).await?;
            }
            Ok(gone)
        })
    }

    fn instances(&self) -> Answer<Vec<String>> {
        self.answer(async move |client| {
            let alive = vec![INSTANCES.to_owned(), format!("({}", now_ms()), "+inf".to_owned()];
            let mut instances: Vec<String> = call(&client, "ZRANGEBYSCORE", alive).await?;
            instances.sort();
            Ok(instances)
        })
    }

    fn hold(&self, instance: &str, records: Vec<Record>) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            if records.is_empty() {
                return Ok(());
            }
            known(&client, &instance).await?;
            let fields = records.into_iter().flat_map(|record| [record.key, record.text]);
            let all = std::iter::once(connections_key(&instance)).chain(fields).collect();
            let _: i64 = call(&client, "HSET", all).await?;
            Ok(())
        })
    }

    fn release(&self, instance: &str, keys: Vec<String>) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            if keys.is_empty() {
                return Ok(());
            }
            let all = std::iter::once(connections_key(&instance)).chain(keys).collect();
            let _: i64 = call(&client, "HDEL", all).await?;
            Ok(())
        })
    }

    fn records(&self, instance: &str, limit: usize) -> Answer<Vec<Record>> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            let found: BTreeMap<String, String> =
                call(&client, "HGETALL", vec![connections_key(&instance)]).await?;
            Ok(found.into_iter().take(limit).map(|(key, text)| Record { key, text }).collect())
        })
    }
}

/// Makes sure that others come upon the instance, though it has not taken its lease yet.
async fn known(client: &Client, instance: &str) -> Result<(), RedisError> {
    let lease = vec![INSTANCES.to_owned(), "NX".to_owned(), "0".to_owned(), instance.to_owned()];
    let _: RedisValue = call(client, "ZADD", lease).await?;
    Ok(())
}

/// The instances whose leases have run out.
async fn over(client: &Client) -> Result<Vec<String>, RedisError> {
    call(client, "ZRANGEBYSCORE", vec![INSTANCES.to_owned(), "-inf".to_owned(), now_ms().to_string()]).await
}

async fn lines(client: &Client, instance: &str) -> Result<Vec<String>, RedisError> {
    call(client, "SMEMBERS", vec![instance_key(instance)]).await
}

async fn held_by(
    client: &Client,
    scope: &Scope,
    place: &Place,
    instance: &str,
) -> Result<Vec<Member>, RedisError> {
    let held = all(client, &members_key(scope, place)).await?;
    Ok(held.into_values().filter(|held| held.instance == instance).map(|held| held.member).collect())
}

/// Removes the members of an instance whose lease has run out, and the instance last, once it has left nothing.
async fn bury(client: &Client, instance: &str, gone: &mut Vec<Gone>) -> Result<(), RedisError> {
    for line in lines(client, instance).await? {
        if let Some((scope, place)) = read_line(&line) {
            for member in held_by(client, &scope, &place, instance).await? {
                if remove(client, &scope, &place, &member.socket_id).await? {
                    gone.push(Gone { scope: scope.clone(), place: place.clone(), member });
                }
            }
        }
        let _: i64 = call(client, "SREM", vec![instance_key(instance), line]).await?;
    }
    let connections: i64 = call(client, "HLEN", vec![connections_key(instance)]).await?;
    // Unless it has come back meanwhile.
    if connections == 0 && over(client).await?.iter().any(|dead| dead == instance) {
        let _: i64 = call(client, "ZREM", vec![INSTANCES.to_owned(), instance.to_owned()]).await?;
    }
    Ok(())
}
