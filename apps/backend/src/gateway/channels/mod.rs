//! Channels, presence and mail between instances: what connections say to each other, wherever they are.
//!
//! Owns this instance's lease, the members that it holds, and its mailbox. Messages leave through the event log's
//! announcements and come back through the hub; who is where is kept in the presence store.

mod lease;
pub mod mail;
mod presence;
mod watching;

pub use watching::Watching;

use super::registry::Registry;
use ::presence::{Member, Place, Presence};
use event_log::{EventLog, LogError, TopicKey};
use event_router::{Content, Hub, LiveMessage};
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared_types::{Scope, TopicName};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One member that a connection of this instance holds.
type HeldKey = (Scope, Place, String);

/// A member that is held.
#[derive(Clone)]
struct Held {
    member: Member,
    /// The store has not answered its entering yet.
    is_entering: bool,
}

/// The channels of this instance.
pub struct Channels {
    instance: String,
    log: Arc<dyn EventLog>,
    hub: Arc<Hub>,
    store: Arc<dyn Presence>,
    registry: Arc<Registry>,
    held: Mutex<HashMap<HeldKey, Held>>,
    lease: lease::Lease,
    /// Whether mail for this instance comes.
    mailbox: watch::Sender<bool>,
    calls: Mutex<HashMap<u64, mpsc::Sender<event_router::Letter>>>,
    next_call: AtomicU64,
    tasks: TaskTracker,
}

impl Channels {
    /// The channels of `instance`, whose connections are in `registry`; what outlives its caller runs in `tasks`.
    pub fn new(
        instance: String,
        log: Arc<dyn EventLog>,
        hub: Arc<Hub>,
        store: Arc<dyn Presence>,
        registry: Arc<Registry>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            instance,
            log,
            hub,
            store,
            registry,
            held: Mutex::default(),
            lease: lease::Lease::default(),
            mailbox: watch::Sender::new(false),
            calls: Mutex::default(),
            next_call: AtomicU64::new(1),
            tasks,
        })
    }

    /// A new socket's id, from which others know whose connection it is.
    pub fn socket_id(&self) -> String {
        format!("{}-{}", shared_types::ids::new_id("sock"), self.instance)
    }

    /// Keeps the lease, says what went with instances that died, reads mail, and tells who watches what happens here,
    /// until `stop`.
    pub async fn run(self: Arc<Self>, mails: mpsc::Receiver<Arc<LiveMessage>>, stop: CancellationToken) {
        let live = async {
            // Others write to whoever has a lease.
            self.open_mailbox().await;
            tokio::join!(self.keep_lease(), self.report_traffic(), self.ask_for_traffic());
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.read_mail(mails) => {}
            () = live => {}
        }
    }

    /// Says something under a key, in all instances.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn announce(&self, key: TopicKey, content: &Content) -> Result<(), LogError> {
        self.log.announce(vec![content.message(key)]).await
    }

    /// The members of a place, as many as are listed at once.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn members(
        &self,
        scope: &Scope,
        place: &Place,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Member>, shared_types::Problem> {
        Ok(self.store.members(scope, place, after, limit).await?)
    }

    /// Channels with members, and how many each has.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn list(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, shared_types::Problem> {
        Ok(self.store.places(scope, ::presence::Kind::Channel, after, limit).await?)
    }

    /// Where what concerns a place is said.
    pub fn key_of(scope: &Scope, place: &Place) -> TopicKey {
        let name = match place.as_document() {
            Some(_) => TopicName::from_stored(&format!("@document/{}", place.name)),
            None => TopicName::from_stored(&place.name),
        };
        TopicKey::new(scope, &name)
    }
}

/// Where a place is, as clients see it: `{ channel }` or `{ document: { service, id } }`.
pub fn place_members(place: &Place) -> Value {
    match place.as_document() {
        Some((service, id)) => json!({ "document": { "service": service, "id": id } }),
        None => json!({ "channel": place.name }),
    }
}

/// A member as clients see it.
pub fn member_json(member: &Member) -> Value {
    serde_json::to_value(member).unwrap_or_default()
}
