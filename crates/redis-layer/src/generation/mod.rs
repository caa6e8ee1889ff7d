//! The generation: which unbroken life of the stored data this is.
//!
//! Owns the decision whether a server may have lost something that was acknowledged, and what follows: a new
//! generation, with which every epoch changes. Scripts are loaded here only, after the decision, so that nothing is
//! appended to a server that was not looked at. The witness is a row in PostgreSQL.

mod acknowledged;
mod judge;
mod look;
mod witness;

pub use look::{Fresh, Node};

use crate::{
    connection::{Link, Links, linked},
    error::RedisError,
    keys::Partition,
    scripts::Scripts,
};
use acknowledged::Acknowledged;
use judge::Witnessed;
use parking_lot::Mutex;
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often the servers are looked at, and what was acknowledged is written down.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_millis(200);
/// How long one settling may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A generation that was settled, and the scripts that were loaded for it.
#[derive(Debug)]
pub struct Settled {
    /// Eight hexadecimal digits, at the front of every epoch.
    pub generation: String,
    /// The scripts.
    pub scripts: Scripts,
    nodes: Vec<String>,
}

/// What the servers said last.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The nodes; none while they cannot be reached.
    pub nodes: Vec<Node>,
    /// Why there is no settled generation.
    pub trouble: Option<RedisError>,
}

/// What the rest of the layer knows of the generation.
pub struct Guard {
    settled: watch::Sender<Option<Arc<Settled>>>,
    doubted: Notify,
    acknowledged: Mutex<Acknowledged>,
    seen: Mutex<Seen>,
}

impl Guard {
    /// One without a settled generation; [`run`] settles it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            settled: watch::Sender::new(None),
            doubted: Notify::new(),
            acknowledged: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// The settled generation, waited for at most `patience`.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn settled(&self, patience: Duration) -> Result<Arc<Settled>, RedisError> {
        let mut settled = self.settled.subscribe();
        let found = tokio::time::timeout(patience, settled.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(settled)) => settled.clone().ok_or_else(not_settled),
            _ => Err(self.seen.lock().trouble.clone().unwrap_or_else(not_settled)),
        }
    }

    /// Says that `settled` no longer holds: a server refused it, or does not know its scripts.
    pub fn doubt(&self, settled: &Arc<Settled>) {
        let is_first = self.settled.send_if_modified(|present| {
            let is_same = present.as_ref().is_some_and(|present| Arc::ptr_eq(present, settled));
            if is_same {
                *present = None;
            }
            is_same
        });
        if is_first {
            self.doubted.notify_one();
        }
    }

    /// Remembers that everything up to `sequence` was acknowledged under `settled`, if its generation still holds.
    pub fn acknowledge(&self, settled: &Settled, partition: Partition, sequence: u64) {
        self.acknowledged.lock().raise(&settled.generation, partition, sequence);
    }

    /// What the servers said last.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }
}

fn not_settled() -> RedisError {
    RedisError::Unavailable("its generation is not settled yet".to_owned())
}

/// Settles the generation, again whenever it is doubted, and writes down what was acknowledged, until `stop`.
pub async fn run(guard: Arc<Guard>, links: Links, pool: PgPool, stop: CancellationToken) {
    let mut keeper = Keeper { guard, links, pool, written: Acknowledged::default(), has_said: false };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = keeper.keep() => {}
        }
    }
    keeper.write_down().await;
}

struct Keeper {
    guard: Arc<Guard>,
    links: Links,
    pool: PgPool,
    written: Acknowledged,
    /// Whether it was said that Redis cannot be used, and not yet that it can.
    has_said: bool,
}

impl Keeper {
    async fn keep(&mut self) {
        let settled = self.guard.settled.borrow().clone();
        match settled {
            None => self.try_to_settle().await,
            Some(settled) => {
                tokio::select! {
                    () = self.guard.doubted.notified() => {}
                    () = tokio::time::sleep(LOOK) => self.look(&settled).await,
                }
            }
        }
    }

    async fn try_to_settle(&mut self) {
        let attempt = tokio::time::timeout(PATIENCE, self.settle()).await;
        let outcome =
            attempt.unwrap_or_else(|_| Err(RedisError::Unavailable("no answer in time".to_owned())));
        match outcome {
            Ok(settled) => {
                self.guard.seen.lock().trouble = None;
                self.guard.settled.send_replace(Some(Arc::new(settled)));
                self.say(None);
            }
            Err(error) => {
                self.say(Some(&error));
                self.guard.seen.lock().trouble = Some(error);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Says once what keeps Redis from being used, and once that it can be used again.
    fn say(&mut self, trouble: Option<&RedisError>) {
        match trouble {
            // Whoever migrates says that it does.
            Some(RedisError::NoSchema) => {}
            Some(error) if !self.has_said => {
                self.has_said = true;
                tracing::warn!(%error, "redis cannot be used now; trying on");
            }
            None if self.has_said => {
                self.has_said = false;
                tracing::info!("redis can be used again");
            }
            _ => {}
        }
    }

    async fn settle(&self) -> Result<Settled, RedisError> {
        let link = linked(&self.links, PATIENCE).await?;
        let server = Fresh::connect(&link).await?;
        let settled = self.settle_on(&server).await;
        server.close().await;
        settled
    }

    async fn settle_on(&self, server: &Fresh) -> Result<Settled, RedisError> {
        let (tx, mut witnessed) = witness::begin(&self.pool).await?;
        if let Some(witnessed) = &mut witnessed {
            self.guard.acknowledged.lock().raise_known(&witnessed.generation, &mut witnessed.sequences);
        }
        let (nodes, held) = (server.nodes().await?, server.held().await?);
        let loss = judge::judge(witnessed.as_ref(), &nodes, &held);
        let generation = match (&loss, witnessed) {
            (None, Some(witnessed)) => witnessed.generation,
            _ => format!("{:08x}", rand::random::<u32>()),
        };
        if let Some(loss) = &loss {
            server.install(&generation).await?;
            tracing::warn!(
                ?loss,
                log.generation = generation,
                "the event log on redis begins a new generation"
            );
        }
        let identities: Vec<String> = nodes.iter().map(Node::identity).collect();
        let sequences = held.iter().map(|held| held.sequence).collect();
        let settled = Witnessed { generation: generation.clone(), nodes: identities.clone(), sequences };
        self.guard.acknowledged.lock().begin(&generation);
        witness::finish(tx, &settled).await?;
        let scripts = Scripts::load(server, &generation).await?;
        self.guard.seen.lock().nodes = nodes;
        Ok(Settled { generation, scripts, nodes: identities })
    }

    /// Looks whether the servers are still those that were settled on.
    async fn look(&mut self, settled: &Arc<Settled>) {
        self.write_down().await;
        let Ok(link) = linked(&self.links, LOOK).await else { return };
        match self.present(&link).await {
            Ok(nodes) => {
                let same = nodes.iter().map(Node::identity).eq(settled.nodes.iter().cloned());
                *self.guard.seen.lock() = Seen { nodes, trouble: None };
                if same {
                    self.say(None);
                } else {
                    self.guard.doubt(settled);
                }
            }
            // Scripts are unknown to a server that was started anew: it is looked at before it is used.
            Err(error) => {
                self.say(Some(&error));
                *self.guard.seen.lock() = Seen { nodes: Vec::new(), trouble: Some(error) };
            }
        }
    }

    async fn present(&self, link: &Link) -> Result<Vec<Node>, RedisError> {
        look::present(link).await
    }

    async fn write_down(&mut self) {
        let acknowledged = self.guard.acknowledged.lock().clone();
        if acknowledged == self.written {
            return;
        }
        match witness::raise(&self.pool, &acknowledged).await {
            Ok(()) => self.written = acknowledged,
            Err(error) => tracing::debug!(%error, "could not write down what was acknowledged; trying on"),
        }
    }
}
