//! Leases of instances, and what each of them holds: members, found by the instance, and connections.

use super::members::{self, Spot};
use crate::{connection::on_key, error::RedisError};
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{FromValue, Value as RedisValue},
};
use futures::future::try_join_all;
use presence::{Gone, LEASE, Record};
use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// Sorted set: when each instance's lease ends, in Unix milliseconds by the clock of the instance.
const INSTANCES: &str = "realtime:instances";
/// Members that are asked for or removed at a time.
const CHUNK: usize = 500;
/// How many such chunks are under way at once.
const AT_ONCE: usize = 16;

/// Set: the members that an instance may hold, by their lines.
fn held_key(instance: &str) -> String {
    format!("realtime:instance:{instance}")
}

/// Hash: what an instance wrote down of its connections, by key.
pub fn connections_key(instance: &str) -> String {
    format!("realtime:connections:{instance}")
}

/// Issues a command whose first argument is its key.
///
/// # Errors
/// Those of the server.
pub async fn call<T: FromValue>(
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

/// Makes sure that others come upon the instance, though it has not taken its lease yet.
///
/// # Errors
/// Those of the server.
pub async fn make_known(client: &Client, instance: &str) -> Result<(), RedisError> {
    let lease = vec![INSTANCES.to_owned(), "NX".to_owned(), "0".to_owned(), instance.to_owned()];
    let _: RedisValue = call(client, "ZADD", lease).await?;
    Ok(())
}

/// Writes down what finds members should their instance die: before they enter.
///
/// # Errors
/// Those of the server.
pub async fn note(client: &Client, instance: &str, lines: Vec<String>) -> Result<(), RedisError> {
    let noted = call::<i64>(client, "SADD", std::iter::once(held_key(instance)).chain(lines).collect());
    futures::try_join!(make_known(client, instance), noted)?;
    Ok(())
}

/// Removes what [`note`] wrote down: once they have left.
///
/// # Errors
/// Those of the server.
pub async fn unnote(client: &Client, instance: &str, lines: Vec<String>) -> Result<(), RedisError> {
    let _: i64 = call(client, "SREM", std::iter::once(held_key(instance)).chain(lines).collect()).await?;
    Ok(())
}

/// Renews a lease; answers whether it held.
///
/// # Errors
/// Those of the server.
pub async fn renew(client: &Client, instance: &str) -> Result<bool, RedisError> {
    let lease = vec![INSTANCES.to_owned(), instance.to_owned()];
    let before: Option<f64> = call(client, "ZSCORE", lease).await?;
    let now = now_ms();
    let until = now + LEASE.as_millis() as i64;
    let renewed = vec![INSTANCES.to_owned(), until.to_string(), instance.to_owned()];
    let _: RedisValue = call(client, "ZADD", renewed).await?;
    Ok(before.is_some_and(|until| until > now as f64))
}

/// Ends a lease. It is not removed: whoever reaps next finds it, with the members that it may still have.
///
/// # Errors
/// Those of the server.
pub async fn end(client: &Client, instance: &str) -> Result<(), RedisError> {
    let over = vec![INSTANCES.to_owned(), "XX".to_owned(), "0".to_owned(), instance.to_owned()];
    let _: RedisValue = call(client, "ZADD", over).await?;
    Ok(())
}

/// The instances whose leases hold.
///
/// # Errors
/// Those of the server.
pub async fn alive(client: &Client) -> Result<Vec<String>, RedisError> {
    let alive = vec![INSTANCES.to_owned(), format!("({}", now_ms()), "+inf".to_owned()];
    let mut instances: Vec<String> = call(client, "ZRANGEBYSCORE", alive).await?;
    instances.sort();
    Ok(instances)
}

/// The instances whose leases have run out.
///
/// # Errors
/// Those of the server.
pub async fn over(client: &Client) -> Result<Vec<String>, RedisError> {
    let over = vec![INSTANCES.to_owned(), "-inf".to_owned(), now_ms().to_string()];
    let mut instances: Vec<String> = call(client, "ZRANGEBYSCORE", over).await?;
    instances.sort();
    Ok(instances)
}

/// Sockets of one place.
type Chunk = (Spot, Vec<String>);

/// What an instance may hold, by place.
async fn chunks(client: &Client, instance: &str) -> Result<Vec<Chunk>, RedisError> {
    let lines: Vec<String> = call(client, "SMEMBERS", vec![held_key(instance)]).await?;
    let mut by_place: HashMap<Spot, Vec<String>> = HashMap::new();
    for (spot, socket) in lines.iter().filter_map(|line| Spot::read_line(line)) {
        by_place.entry(spot).or_default().push(socket.to_owned());
    }
    let mut chunks = Vec::new();
    for (spot, mut sockets) in by_place {
        sockets.sort_unstable();
        chunks.extend(sockets.chunks(CHUNK).map(|some| (spot.clone(), some.to_vec())));
    }
    // By their names, so that everybody comes upon them in the same order.
    chunks.sort_by_cached_key(|(spot, sockets)| spot.line(&sockets[0]));
    Ok(chunks)
}

/// The members that an instance holds.
///
/// # Errors
/// Those of the server.
pub async fn left_by(client: &Client, instance: &str) -> Result<Vec<Gone>, RedisError> {
    let mut left = Vec::new();
    for some in chunks(client, instance).await?.chunks(AT_ONCE) {
        let found = some.iter().map(|(spot, sockets)| members::find(client, spot, sockets));
        for ((spot, _), found) in some.iter().zip(try_join_all(found).await?) {
            let theirs = found.into_iter().filter(|held| held.instance == instance);
            left.extend(theirs.map(|held| gone(spot, held.member)));
        }
    }
    Ok(left)
}

/// Removes the members of an instance whose lease has run out, and the instance last, once it has left nothing.
///
/// # Errors
/// Those of the server.
pub async fn bury(client: &Client, instance: &str) -> Result<Vec<Gone>, RedisError> {
    let mut all = Vec::new();
    if !is_over(client, instance).await? {
        return Ok(all);
    }
    for some in chunks(client, instance).await?.chunks(AT_ONCE) {
        let removing = some.iter().map(|(spot, sockets)| async move {
            let removed = members::remove(client, spot, Some(instance), sockets).await?;
            let lines = sockets.iter().map(|socket| spot.line(socket)).collect();
            unnote(client, instance, lines).await?;
            Ok::<_, RedisError>(removed)
        });
        for ((spot, _), removed) in some.iter().zip(try_join_all(removing).await?) {
            all.extend(removed.into_iter().map(|held| gone(spot, held.member)));
        }
    }
    let connections: i64 = call(client, "HLEN", vec![connections_key(instance)]).await?;
    // Unless it has come back meanwhile.
    if connections == 0 && is_over(client, instance).await? {
        let _: i64 = call(client, "ZREM", vec![INSTANCES.to_owned(), instance.to_owned()]).await?;
    }
    Ok(all)
}

/// Some of what an instance wrote down of its connections, at most `limit`: a part of the hash at a time, for it is asked
/// again and again.
///
/// # Errors
/// Those of the server.
pub async fn records(client: &Client, instance: &str, limit: usize) -> Result<Vec<Record>, RedisError> {
    let broken = || RedisError::Internal("a scan was not answered as it should be".to_owned());
    let mut found: HashMap<String, String> = HashMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let asked = vec![connections_key(instance), cursor, "COUNT".to_owned(), limit.to_string()];
        let RedisValue::Array(mut answer) = call(client, "HSCAN", asked).await? else { return Err(broken()) };
        let (Some(some), Some(next)) = (answer.pop(), answer.pop()) else { return Err(broken()) };
        let some: Vec<String> = some.convert()?;
        // A hash that is resized meanwhile may show a record twice.
        found.extend(some.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        cursor = next.convert()?;
        if found.len() >= limit || cursor == "0" {
            break;
        }
    }
    Ok(found.into_iter().take(limit).map(|(key, text)| Record { key, text }).collect())
}

async fn is_over(client: &Client, instance: &str) -> Result<bool, RedisError> {
    Ok(over(client).await?.iter().any(|dead| dead == instance))
}

fn gone(spot: &Spot, member: presence::Member) -> Gone {
    Gone { scope: spot.scope.clone(), place: spot.place.clone(), member }
}
