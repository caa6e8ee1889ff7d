//! Begins epochs; subscribes, unsubscribes and looks up heads, one order after the other, so that the live reader never waits for
//! the server while messages come.

use super::{PATIENCE, announce, history, lane::Shore};
use crate::{
    connection::{Link, linked, on, plain},
    error::RedisError,
    keys::{self, Announcing, Partition},
};
use event_log::{LogError, TopicKey};
use fred::interfaces::{ClientLike, PubsubInterface};
use shared_types::Position;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// Channels in one command.
const CHANNELS: usize = 200;
/// How long to wait before subscribing is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How often it is subscribed to what a node of the cluster sent on.
const ATTEMPTS: u32 = 10;

/// Topics to follow, and where their heads go.
pub type WatchAsk = (Vec<TopicKey>, oneshot::Sender<Result<Vec<Position>, LogError>>);

/// What is to be done.
pub enum Order {
    /// Subscribe to the topics of the asks, then look up their heads.
    Watch(Vec<WatchAsk>),
    /// Unsubscribe.
    Unwatch(Vec<TopicKey>),
    /// Subscribe to everything again, until that succeeds, then look up the heads.
    Again(Vec<TopicKey>),
    /// Look up heads.
    Look(Vec<TopicKey>),
}

/// What was done.
pub enum Done {
    /// Heads as of after the subscription, or why there are none.
    Watched(Vec<WatchAsk>, Result<HashMap<TopicKey, Position>, LogError>),
    /// Heads as of now.
    Looked(HashMap<TopicKey, Position>),
    /// All are subscribed to again; heads as of after that.
    Again(HashMap<TopicKey, Position>),
}

/// Does what is ordered until nobody orders, or hears of it, any more.
pub async fn run(
    shore: Arc<Shore>,
    link: Arc<Link>,
    mut orders: mpsc::Receiver<Order>,
    done: mpsc::Sender<Done>,
) {
    while let Some(order) = orders.recv().await {
        let report = match order {
            Order::Watch(asks) => {
                let keys: Vec<TopicKey> = asks.iter().flat_map(|(keys, _)| keys.iter().cloned()).collect();
                let heads = subscribe_and_look(&shore, &link, &keys).await;
                Done::Watched(asks, heads)
            }
            Order::Unwatch(keys) => {
                if let Err(error) = unsubscribe(&link, &keys).await {
                    // Messages that nobody wants are thrown away; the next connection will not bring them.
                    tracing::debug!(%error, "could not unsubscribe");
                }
                continue;
            }
            Order::Again(keys) => Done::Again(again(&shore, &link, &keys).await),
            Order::Look(keys) => match history::heads(&shore, &keys).await {
                Ok(heads) => Done::Looked(heads),
                Err(_) => continue,
            },
        };
        if done.send(report).await.is_err() {
            return;
        }
    }
}

/// Takes head and history from each of `topics`, gives them a new epoch and tells live readers.
pub async fn begin_epochs(shore: Arc<Shore>, topics: Vec<TopicKey>) -> Result<Vec<Position>, LogError> {
    let link = linked(&shore.links, PATIENCE).await?;
    // Nothing is taken from a server that is not known to be the right one.
    shore.guard.settled(PATIENCE).await?;
    for topic in &topics {
        // In one step: whoever appends finds both or neither, and begins a new epoch.
        let names = vec![keys::head(topic), keys::history(topic)];
        let unlink = on(Partition::of(topic), "UNLINK");
        link.writes.custom::<(), _>(unlink, names).await.map_err(RedisError::from)?;
    }
    let heads = history::heads(&shore, &topics).await?;
    for topic in &topics {
        let said = vec![link.announcing.channel(topic), announce::RENEWED.to_owned()];
        let publish = on(Partition::of(topic), link.announcing.command());
        link.writes.custom::<(), _>(publish, said).await.map_err(RedisError::from)?;
    }
    let head =
        |topic| heads.get(topic).cloned().ok_or_else(|| LogError::Internal("no head for a topic".to_owned()));
    topics.iter().map(head).collect()
}

async fn again(shore: &Shore, link: &Link, keys: &[TopicKey]) -> HashMap<TopicKey, Position> {
    loop {
        match subscribe_and_look(shore, link, keys).await {
            Ok(heads) => return heads,
            Err(error) => tracing::debug!(%error, "could not subscribe to live events again; trying on"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn subscribe_and_look(
    shore: &Shore,
    link: &Link,
    keys: &[TopicKey],
) -> Result<HashMap<TopicKey, Position>, LogError> {
    let mut attempts = 1;
    // Whoever asks would be refused because of a slot that moves.
    while let Err(error) = subscribe(link, keys).await {
        if !matches!(error, RedisError::SentOn) || attempts == ATTEMPTS {
            return Err(error.into());
        }
        attempts += 1;
        tokio::time::sleep(RETRY / 2).await;
    }
    history::heads(shore, keys).await
}

/// Subscribes, and waits until the server has done so: the library does not, but an answer to a later command on the
/// same connection says it.
async fn subscribe(link: &Link, keys: &[TopicKey]) -> Result<(), RedisError> {
    let client = &link.subscriber;
    match link.announcing {
        Announcing::Plain => {
            for keys in keys.chunks(CHANNELS) {
                client.subscribe(channels(link, keys)).await?;
            }
            client.custom::<(), String>(plain("PING"), Vec::new()).await?;
        }
        Announcing::Sharded => {
            for (partition, keys) in by_partition(keys) {
                for key in &keys {
                    client.ssubscribe(link.announcing.channel(key)).await?;
                }
                client.custom::<(), String>(on(partition, "PING"), Vec::new()).await?;
            }
        }
    }
    Ok(())
}

async fn unsubscribe(link: &Link, keys: &[TopicKey]) -> Result<(), RedisError> {
    match link.announcing {
        Announcing::Plain => {
            for keys in keys.chunks(CHANNELS) {
                link.subscriber.unsubscribe(channels(link, keys)).await?;
            }
        }
        Announcing::Sharded => {
            for (_, keys) in by_partition(keys) {
                link.subscriber.sunsubscribe(channels(link, &keys)).await?;
            }
        }
    }
    Ok(())
}

fn channels(link: &Link, keys: &[TopicKey]) -> Vec<String> {
    keys.iter().map(|key| link.announcing.channel(key)).collect()
}

fn by_partition(keys: &[TopicKey]) -> BTreeMap<Partition, Vec<TopicKey>> {
    let mut by_partition: BTreeMap<Partition, Vec<TopicKey>> = BTreeMap::new();
    for key in keys {
        by_partition.entry(Partition::of(key)).or_default().push(key.clone());
    }
    by_partition
}
