//! When subscriptions may have lapsed: with a new connection, and in a cluster with a slot that has moved.
//!
//! A node that hands a slot on ends the subscriptions to the slot's channels, and says so; the library keeps that to
//! itself. So it is looked which node has which slot. Knows nothing of what is subscribed to.

use crate::keys::{Announcing, Partition, leases_slot};
use fred::{
    clients::Client,
    interfaces::{ClusterInterface, EventInterface},
    types::{ClusterHash, config::Server},
};
use std::time::Duration;
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::JoinSet,
};

/// How often it is looked which node has which slot.
const LOOK: Duration = Duration::from_millis(500);
/// How often, until the subscriber is connected: before it has subscribed to anything that moves.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Changes whenever the subscriber may be subscribed to nothing, or not to everything.
pub type Lapses = watch::Receiver<u64>;

/// Follows the subscriptions of `subscriber` in `tasks`. Where slots are is known to `reads`, which asks something of
/// each partition every few seconds and learns it from the answers.
pub fn follow(
    subscriber: &Client,
    reads: &Client,
    announcing: Announcing,
    tasks: &mut JoinSet<()>,
) -> Lapses {
    let (lapsed, lapses) = watch::channel(0);
    // Before the first connection, so that none is missed.
    let mut reconnects = subscriber.reconnect_rx();
    let slots = Slots { subscriber: subscriber.clone(), reads: reads.clone(), subscribed: None };
    let mut slots = (announcing == Announcing::Sharded).then_some(slots);
    tasks.spawn(async move {
        loop {
            let moved = async {
                match &mut slots {
                    Some(slots) => slots.moved().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                reconnected = reconnects.recv() => if matches!(reconnected, Err(RecvError::Closed)) { return },
                () = moved => {}
            }
            lapsed.send_modify(|count| *count += 1);
        }
    });
    lapses
}

/// The nodes that have our slots.
type Owners = Vec<Option<Server>>;

struct Slots {
    subscriber: Client,
    reads: Client,
    /// Where the subscriber took the slots to be when it subscribed; nothing before it is connected.
    subscribed: Option<Owners>,
}

impl Slots {
    /// Waits until a slot of ours has another node, and the subscriber knows of it, whoever told it. May be given up at
    /// any time.
    async fn moved(&mut self) {
        loop {
            tokio::time::sleep(if self.subscribed.is_some() { LOOK } else { FIRST_LOOK }).await;
            let (Some(mut own), Some(found)) = (owners(&self.subscriber), owners(&self.reads)) else {
                continue;
            };
            if self.subscribed.is_none() {
                self.subscribed = Some(own);
                continue;
            }
            if own != found {
                // Else it would subscribe where the slot was.
                if let Err(error) = self.subscriber.sync_cluster().await {
                    tracing::debug!(%error, "could not look where slots are; trying on");
                }
                own = owners(&self.subscriber).unwrap_or(own);
            }
            if self.subscribed.as_ref() != Some(&own) {
                self.subscribed = Some(own);
                return;
            }
        }
    }
}

fn owners(client: &Client) -> Option<Owners> {
    let state = client.cached_cluster_state()?;
    let slots = Partition::all().map(Partition::slot).chain([leases_slot()]);
    let owner = |slot| match slot {
        ClusterHash::Custom(slot) => state.get_server(slot).cloned(),
        _ => None,
    };
    Some(slots.map(owner).collect())
}
