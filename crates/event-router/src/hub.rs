//! The delivering half: from the live reader to outboxes.
//!
//! Topics are spread over shards by hash. Each shard is one task that owns its topics, so that subscribing and
//! delivering need no lock and are ordered against each other by construction.

use crate::{
    index::Subscription,
    live_event::LiveEvent,
    message::{Listener, LiveMessage},
    outgoing::ReplyTo,
    own::MAIL,
    shard::{Command, Shard},
    topic::Join,
    writer::Writer,
};
use event_log::{EventLog, LiveReader, LiveWatch, LogError, Message, TopicKey};
use metrics::Metrics;
use shared_types::{Position, SubscriptionId};
use std::{sync::Arc, thread::available_parallelism};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How many commands may wait for a shard before callers wait in turn.
const QUEUE: usize = 1_024;

/// A subscription to make, and to whom to say so.
pub struct Subscribe {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// The position to recover from.
    pub since: Option<Position>,
    /// Which request it answers.
    pub reply: ReplyTo,
}

/// The delivering half of a process.
pub struct Hub {
    shards: Vec<mpsc::Sender<Command>>,
    hasher: ahash::RandomState,
    writers: Arc<[Arc<Writer>]>,
    watch: Arc<dyn LiveWatch>,
}

/// Mails that may wait.
const MAILS: usize = 4_096;

impl Hub {
    /// Starts the shards and writers on `log`'s live reader, in `tasks`; they end with `stop`. What is said under
    /// keys of [`MAIL`] goes into the receiver; mail that finds no room is dropped.
    pub fn start(
        log: Arc<dyn EventLog>,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> (Arc<Self>, mpsc::Receiver<Arc<LiveMessage>>) {
        let LiveReader { watch, events, messages, renewed } = log.live();
        let count = available_parallelism().map_or(2, usize::from).min(8);
        let writers: Arc<[Arc<Writer>]> = (0..count).map(|_| Arc::default()).collect();
        for writer in writers.iter() {
            tasks.spawn(writer.clone().run(stop.clone()));
        }
        let shards = (0..count)
            .map(|_| {
                let (sender, commands) = mpsc::channel(QUEUE);
                let shard =
                    Shard::new(log.clone(), watch.clone(), metrics.clone(), commands, writers.clone());
                tasks.spawn(shard.run(stop.clone()));
                sender
            })
            .collect();
        let hub = Arc::new(Self { shards, hasher: ahash::RandomState::new(), writers, watch });
        let (mail, mails) = mpsc::channel(MAILS);
        tasks.spawn(distribute(hub.clone(), events, stop.clone()));
        tasks.spawn(renew(hub.clone(), renewed, stop.clone()));
        tasks.spawn(say(hub.clone(), messages, mail, metrics, stop));
        (hub, mails)
    }

    /// The writer of a connection, by its number.
    pub fn writer(&self, connection: u64) -> Arc<Writer> {
        self.writers[(connection % self.writers.len() as u64) as usize].clone()
    }

    fn shard(&self, key: &TopicKey) -> usize {
        (self.hasher.hash_one(key) % self.shards.len() as u64) as usize
    }

    /// Makes a subscription. The answer goes into its outbox, as `subscribed` or as a failure.
    pub async fn subscribe(&self, subscribe: Subscribe) {
        let shard = self.shard(&subscribe.subscription.key);
        // A shard that has stopped belongs to a process that is stopping: the connection ends anyway.
        let _ = self.shards[shard].send(Command::Subscribe(subscribe)).await;
    }

    /// Lets a connection hear what is said under `key`; answers once it misses nothing.
    ///
    /// # Errors
    /// Those of the log, which could not be asked for it.
    pub async fn join(&self, key: TopicKey, listener: Listener) -> Result<(), LogError> {
        let stopping = || LogError::Unavailable("the server is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        let shard = self.shard(&key);
        let join = Command::Join(key, Join { listener, reply });
        self.shards[shard].send(join).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Lets it hear nothing more under `key`.
    pub async fn part(&self, key: TopicKey, connection: u64) {
        let shard = self.shard(&key);
        let _ = self.shards[shard].send(Command::Part(key, connection)).await;
    }

    /// Takes mail under `key` from now on.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn take_mail(&self, key: TopicKey) -> Result<(), LogError> {
        self.watch.watch(vec![key]).await.map(drop)
    }

    /// Ends a subscription and answers `reply` in the outbox, after which no event of it comes.
    pub async fn unsubscribe(&self, subscription: Arc<Subscription>, reply: ReplyTo) {
        let shard = self.shard(&subscription.key);
        let _ = self.shards[shard].send(Command::Unsubscribe(subscription, reply)).await;
    }

    /// Ends the subscriptions of a connection that is gone.
    pub async fn leave(&self, subscriptions: Vec<Arc<Subscription>>) {
        let mut by_shard: Vec<Vec<(TopicKey, SubscriptionId)>> = vec![Vec::new(); self.shards.len()];
        for subscription in subscriptions {
            by_shard[self.shard(&subscription.key)].push((subscription.key.clone(), subscription.id.clone()));
        }
        for (shard, gone) in by_shard.into_iter().enumerate().filter(|(_, gone)| !gone.is_empty()) {
            let _ = self.shards[shard].send(Command::Leave(gone)).await;
        }
    }
}

/// Hands each shard its events. Waits for a shard that is busy: the reader then reads on by position.
async fn distribute(
    hub: Arc<Hub>,
    mut events: mpsc::Receiver<Vec<Arc<event_log::StoredEvent>>>,
    stop: CancellationToken,
) {
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return,
            batch = events.recv() => batch,
        };
        let Some(batch) = batch else { return };
        let mut by_shard: Vec<Vec<Arc<LiveEvent>>> = vec![Vec::new(); hub.shards.len()];
        for event in batch {
            by_shard[hub.shard(&event.key)].push(Arc::new(LiveEvent::new(event)));
        }
        for (shard, events) in by_shard.into_iter().enumerate().filter(|(_, events)| !events.is_empty()) {
            if hub.shards[shard].send(Command::Events(events)).await.is_err() {
                return;
            }
        }
    }
}

/// Tells each shard which of its topics may stand in another epoch.
async fn renew(hub: Arc<Hub>, mut renewed: mpsc::Receiver<TopicKey>, stop: CancellationToken) {
    loop {
        let key = tokio::select! {
            () = stop.cancelled() => return,
            key = renewed.recv() => key,
        };
        let Some(key) = key else { return };
        if hub.shards[hub.shard(&key)].send(Command::Renewed(key)).await.is_err() {
            return;
        }
    }
}

/// Hands each shard what is said under its keys. Waits for a shard that is busy: what finds no room in the log's queue
/// is dropped there, and counted.
async fn say(
    hub: Arc<Hub>,
    mut messages: mpsc::Receiver<Message>,
    mail: mpsc::Sender<Arc<LiveMessage>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = messages.recv() => message,
        };
        let Some(message) = message else { return };
        let message = match LiveMessage::read(&message) {
            Ok(message) => Arc::new(message),
            Err(error) => {
                tracing::warn!(%error, "a message is none of ours");
                continue;
            }
        };
        if message.key.topic.as_str().starts_with(MAIL) {
            if mail.try_send(message).is_err() {
                metrics.messages_dropped.inc();
            }
        } else if hub.shards[hub.shard(&message.key)].send(Command::Message(message)).await.is_err() {
            return;
        }
    }
}
