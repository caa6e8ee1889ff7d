//! Members in their places: the keys, how a member reads, and what is done to the members of one place.
//!
//! All keys of a place are of one partition, so that what is done to it is one script, on a cluster too. None of it
//! brings the whole place here.

use crate::{connection::on, error::RedisError, keys::Partition};
use event_log::TopicKey;
use fred::{clients::Client, interfaces::ClientLike, types::FromValue};
use presence::{Entered, Kind, Member, Place};
use shared_types::{AppId, Scope, TopicName};

const ENTER: &str = include_str!("../scripts/presence_enter.lua");
const REMOVE: &str = include_str!("../scripts/presence_remove.lua");

/// A place of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// Whose it is.
    pub scope: Scope,
    /// Which.
    pub place: Place,
}

impl Spot {
    /// The place of the scope.
    pub fn new(scope: &Scope, place: &Place) -> Self {
        Self { scope: scope.clone(), place: place.clone() }
    }

    fn partition(&self) -> Partition {
        Partition::of(&TopicKey::new(&self.scope, &TopicName::from_stored(&self.place.text())))
    }

    fn key(&self, what: &str, partition: Partition) -> String {
        let (application, environment) = (self.scope.application(), self.scope.environment());
        let number = partition.0;
        match self.place.as_document() {
            Some((service, id)) => {
                format!("syncdoc:{what}:{{p{number:02}}}:{application}:{environment}:{service}:{id}")
            }
            None => {
                format!("realtime:{what}:{{p{number:02}}}:{application}:{environment}:{}", self.place.text())
            }
        }
    }

    /// Hash: the members, by socket.
    fn members(&self) -> String {
        self.key("presence", self.partition())
    }

    /// Sorted set: the sockets, all with score 0, so that they stand in order.
    fn sockets(&self) -> String {
        self.key("sockets", self.partition())
    }

    /// The keys that the scripts are given.
    fn keys(&self) -> Vec<String> {
        let partition = self.partition();
        let places = places_key(&self.scope, self.place.kind, partition);
        let mut keys = vec![self.key("presence", partition), self.key("sockets", partition), places];
        if self.place.kind != Kind::Channel {
            keys.push(self.key("clients", partition));
        }
        keys
    }

    /// As a member of the set of what an instance holds: application, environment, socket and place by line.
    pub fn line(&self, socket: &str) -> String {
        let (application, environment) = (self.scope.application(), self.scope.environment());
        format!("{application}\n{environment}\n{socket}\n{}", self.place.text())
    }

    /// Reads what [`Spot::line`] wrote: the place and the socket.
    pub fn read_line(line: &str) -> Option<(Self, &str)> {
        let mut parts = line.splitn(4, '\n');
        let scope = Scope::new(AppId::from_stored(parts.next()?), parts.next()?.parse().ok()?);
        let socket = parts.next()?;
        Some((Self { scope, place: Place::read(parts.next()?)? }, socket))
    }
}

/// Sorted set: the places of a kind in one partition that have members, all with score 0, so that they stand by name.
fn places_key(scope: &Scope, kind: Kind, partition: Partition) -> String {
    let (application, environment) = (scope.application(), scope.environment());
    format!("realtime:places:{{p{:02}}}:{application}:{environment}:{}", partition.0, kind.letter())
}

/// A member as it stands in a place's hash, under its socket's id: since when, the instance, the length of the client's
/// id in bytes, and behind that the client's id and the data.
pub struct Held {
    /// Who holds it.
    pub instance: String,
    /// The member.
    pub member: Member,
}

impl Held {
    fn read(socket: &str, text: &str) -> Result<Self, RedisError> {
        let broken = || RedisError::Internal("a member cannot be read".to_owned());
        let mut parts = text.splitn(4, ' ');
        let mut part = || parts.next().ok_or_else(broken);
        let (since, instance, length, rest) = (part()?, part()?, part()?, part()?);
        let length: usize = length.parse().map_err(|_| broken())?;
        let (client, data) = rest.split_at_checked(length).ok_or_else(broken)?;
        let member = Member {
            client_id: client.to_owned(),
            socket_id: socket.to_owned(),
            data: serde_json::from_str(data).map_err(|_| broken())?,
            joined_at: since.parse().map_err(|_| broken())?,
        };
        Ok(Self { instance: instance.to_owned(), member })
    }
}

async fn call<T: FromValue>(
    client: &Client,
    partition: Partition,
    name: &'static str,
    arguments: Vec<String>,
) -> Result<T, RedisError> {
    Ok(client.custom(on(partition, name), arguments).await?)
}

async fn run<T: FromValue>(
    client: &Client,
    script: &str,
    spot: &Spot,
    arguments: impl IntoIterator<Item = String>,
) -> Result<T, RedisError> {
    let keys = spot.keys();
    let mut all = vec![script.to_owned(), keys.len().to_string()];
    all.extend(keys);
    all.extend(arguments);
    call(client, spot.partition(), "EVAL", all).await
}

/// Puts a member into a place.
///
/// # Errors
/// Those of the server.
pub async fn enter(
    client: &Client,
    spot: &Spot,
    instance: &str,
    member: Member,
) -> Result<Entered, RedisError> {
    let arguments = [
        spot.place.name.clone(),
        member.socket_id.clone(),
        member.joined_at.to_string(),
        instance.to_owned(),
        member.client_id.clone(),
        member.data.to_string(),
    ];
    let answer: Vec<String> = run(client, ENTER, spot, arguments).await?;
    let broken = || RedisError::Internal("an entry was not answered as it should be".to_owned());
    let [is_new, since, others @ ..] = answer.as_slice() else { return Err(broken()) };
    let joined_at = since.parse().map_err(|_| broken())?;
    let elsewhere = others.chunks_exact(2).map(|pair| {
        let Held { instance, member } = Held::read(&pair[0], &pair[1])?;
        Ok((instance, member))
    });
    let elsewhere = elsewhere.collect::<Result<_, RedisError>>()?;
    Ok(Entered { is_new: is_new == "1", member: Member { joined_at, ..member }, elsewhere })
}

/// Takes members out of a place, by their sockets; only those that `instance` holds, where one is named. Answers those
/// that were there.
///
/// # Errors
/// Those of the server.
pub async fn remove(
    client: &Client,
    spot: &Spot,
    instance: Option<&str>,
    sockets: &[String],
) -> Result<Vec<Held>, RedisError> {
    let first = [spot.place.name.clone(), instance.unwrap_or_default().to_owned()];
    let arguments = first.into_iter().chain(sockets.iter().cloned());
    let removed: Vec<Option<String>> = run(client, REMOVE, spot, arguments).await?;
    let there = sockets.iter().zip(removed).filter_map(|(socket, text)| Some((socket, text?)));
    there.map(|(socket, text)| Held::read(socket, &text)).collect()
}

/// The members with these sockets that are there.
///
/// # Errors
/// Those of the server.
pub async fn find(client: &Client, spot: &Spot, sockets: &[String]) -> Result<Vec<Held>, RedisError> {
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let asked = std::iter::once(spot.members()).chain(sockets.iter().cloned()).collect();
    let found: Vec<Option<String>> = call(client, spot.partition(), "HMGET", asked).await?;
    let there = sockets.iter().zip(found).filter_map(|(socket, text)| Some((socket, text?)));
    there.map(|(socket, text)| Held::read(socket, &text)).collect()
}

/// The members behind `after`, by socket, at most `limit`.
///
/// # Errors
/// Those of the server.
pub async fn page(
    client: &Client,
    spot: &Spot,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Member>, RedisError> {
    let sockets: Vec<String> =
        call(client, spot.partition(), "ZRANGEBYLEX", range(spot.sockets(), after, limit)).await?;
    let found = find(client, spot, &sockets).await?;
    Ok(found.into_iter().map(|held| held.member).collect())
}

/// The places of a kind that have members, behind `after`, by name, at most `limit`, with their numbers.
///
/// # Errors
/// Those of the server.
pub async fn places(
    client: &Client,
    scope: &Scope,
    kind: Kind,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, u64)>, RedisError> {
    let all = Partition::all().map(async |partition| {
        let asked = range(places_key(scope, kind, partition), after, limit);
        call::<Vec<String>>(client, partition, "ZRANGEBYLEX", asked).await
    });
    let mut names = futures::future::try_join_all(all).await?.concat();
    names.sort_unstable();
    names.truncate(limit);
    let counts = names.iter().map(async |name| {
        let spot = Spot { scope: scope.clone(), place: Place { kind, name: name.clone() } };
        call::<u64>(client, spot.partition(), "HLEN", vec![spot.members()]).await
    });
    let counts = futures::future::try_join_all(counts).await?;
    // Who was the last may have left between the two.
    Ok(names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect())
}

/// What asks a sorted set of equal scores for what stands behind `after`.
fn range(key: String, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map_or("-".to_owned(), |after| format!("({after}"));
    vec![key, after, "+".to_owned(), "LIMIT".to_owned(), "0".to_owned(), limit.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use fred::types::ClusterHash;
    use shared_types::Environment;

    #[test]
    fn the_keys_of_a_place_share_a_slot_and_no_two_places_share_a_key() {
        let scope = Scope::new(AppId::from_stored("app_a"), Environment::Staging);
        let places = [
            Place { kind: Kind::Channel, name: "chat".to_owned() },
            Place { kind: Kind::Present, name: "chat".to_owned() },
            Place { kind: Kind::Present, name: "sockets:chat".to_owned() },
            Place { kind: Kind::Document, name: "notes/a{b}c".to_owned() },
        ];
        let mut all = Vec::new();
        for place in places {
            let spot = Spot::new(&scope, &place);
            let keys = spot.keys();
            assert_eq!(keys.len(), if place.kind == Kind::Channel { 3 } else { 4 });
            assert_eq!(&keys[..2], [spot.members(), spot.sockets()]);
            for key in &keys {
                let slot = ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes()));
                assert_eq!(slot, spot.partition().slot(), "{key}");
            }
            all.extend(keys);
            let line = spot.line("s1");
            assert_eq!(Spot::read_line(&line), Some((spot, "s1")));
        }
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
