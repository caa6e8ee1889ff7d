//! Which outboxes there are, and one worker for each.

use crate::{
    row::Outbox,
    source::{Source, claim_target, guarded_pool, pool},
    trouble::{OutboxError, Trouble},
    unread::Unread,
    worker::Worker,
};
use database::{
    Pool,
    sealing::Sealer,
    tables::{
        applications::{self, OpenedOutbox},
        outbox as status,
    },
};
use event_router::EventRouter;
use metrics::Metrics;
use outbound::{Policy, postgres::Tunnel};
use shared_types::Scope;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the settings are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a trouble is waited out before another try.
const RETRY: Duration = Duration::from_secs(3);
/// Settings that are changed while their worker ends are looked at again.
const END_LIMIT: Duration = Duration::from_secs(8);

/// What the service works with.
#[derive(Clone)]
pub struct OutboxParts {
    /// The platform's database.
    pub pool: Pool,
    /// The URL of the same, for connections on which rows are claimed.
    pub database_url: String,
    /// The way into the log.
    pub router: EventRouter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Opens the targets' URLs.
    pub sealer: Arc<Sealer>,
    /// Whether targets may be in private networks where nothing is set.
    pub private_by_default: bool,
}

/// Reads the platform's own outbox and those of all targets. Any number of processes may.
pub struct OutboxService {
    parts: OutboxParts,
}

/// Where an outbox is: what a worker is started anew for when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Platform,
    Target { scope: Scope, url: String, network: Policy },
    Sealed { scope: Scope },
}

impl Place {
    /// Whose it is; the platform's own is many scopes'.
    fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Platform => None,
            Self::Target { scope, .. } | Self::Sealed { scope } => Some(scope),
        }
    }

    fn name(&self) -> String {
        self.scope().map_or_else(|| "platform".to_owned(), Scope::to_string)
    }
}

impl OutboxService {
    /// A service that does nothing until [`OutboxService::run`].
    pub fn new(parts: OutboxParts) -> Self {
        Self { parts }
    }

    /// Runs until `stop`; then what was claimed is finished.
    pub async fn run(self, stop: CancellationToken) {
        let mut workers = JoinSet::new();
        let mut running: HashMap<Place, DropGuard> = HashMap::new();
        while !stop.is_cancelled() {
            match self.places().await {
                Ok(places) => {
                    // Dropping a guard stops its worker.
                    running.retain(|place, _| places.contains(place));
                    for place in places {
                        running.entry(place).or_insert_with_key(|place| {
                            let ending = stop.child_token();
                            workers.spawn(work(self.parts.clone(), place.clone(), ending.clone()));
                            ending.drop_guard()
                        });
                    }
                }
                Err(error) => tracing::debug!(%error, "the outboxes' settings cannot be read yet"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = workers.join_next(), if !workers.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "an outbox's worker failed; starting all anew");
                        running.clear();
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        drop(running);
        let all = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(END_LIMIT, all).await.is_err() {
            tracing::warn!("an outbox did not end in time; what it had claimed is claimed again");
        }
    }

    /// The outboxes that the settings name, and the platform's own.
    async fn places(&self) -> Result<Vec<Place>, database::DatabaseError> {
        status::give_up_unset(&self.parts.pool).await?;
        let targets = applications::with_outboxes(&self.parts.pool, &self.parts.sealer).await?;
        let places = targets.into_iter().map(|OpenedOutbox { scope, url, allow_private }| match url {
            Ok(url) => {
                let network = Policy::of(allow_private, self.parts.private_by_default);
                Place::Target { scope, url, network }
            }
            Err(_) => Place::Sealed { scope },
        });
        Ok(std::iter::once(Place::Platform).chain(places).collect())
    }
}

/// Reads one outbox until `stop`, however often its database fails.
async fn work(parts: OutboxParts, place: Place, stop: CancellationToken) {
    let mut last = None;
    let mut unread = Unread::new(parts.metrics.clone(), &place.name());
    while !stop.is_cancelled() {
        let mut read = Duration::ZERO;
        let trouble = match source(&parts, &place).await {
            Ok(source) => {
                last = None;
                unread.clear();
                let begun = Instant::now();
                let (producer, pool) = (source.outbox.producer.clone(), source.pool.clone());
                let ended = Worker::new(source).run(&stop).await;
                read = begun.elapsed();
                parts.metrics.clear_outbox_lag(&producer);
                // Connections that do not answer are left to themselves.
                let _ = tokio::time::timeout(RETRY, pool.close()).await;
                match ended {
                    Ok(()) => continue,
                    Err(error) => Trouble::from(&error),
                }
            }
            Err(trouble) => trouble,
        };
        if trouble.leaves_rows() {
            unread.failed(read);
        } else {
            unread.clear();
        }
        show(&parts, &place, &trouble, &mut last).await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Connects, and claims a target's outbox for its scope.
async fn source(parts: &OutboxParts, place: &Place) -> Result<Source, Trouble> {
    let (outbox, pool, tunnel) = match place {
        Place::Platform => {
            (Outbox::of_platform(), pool(&parts.database_url).map_err(|error| Trouble::from(&error))?, None)
        }
        Place::Target { scope, url, network } => {
            let (pool, tunnel) = guarded_pool(url, *network).await.map_err(|error| Trouble::from(&error))?;
            // A client sees only that its connection ended.
            let failure = || tunnel.as_ref().and_then(Tunnel::failure).map(OutboxError::Outbound);
            let claimed = claim_target(&pool, &parts.pool, scope).await;
            let outbox =
                claimed.map_err(|trouble| failure().map_or(trouble, |error| Trouble::from(&error)))?;
            (outbox, pool, tunnel)
        }
        Place::Sealed { .. } => return Err(Trouble::sealed()),
    };
    let (platform, router, metrics) = (parts.pool.clone(), parts.router.clone(), parts.metrics.clone());
    Ok(Source { outbox, pool, _tunnel: tunnel, platform, router, metrics })
}

/// Says a trouble once, and shows it as long as it lasts.
async fn show(parts: &OutboxParts, place: &Place, trouble: &Trouble, last: &mut Option<Trouble>) {
    let (name, scope) = (place.name(), place.scope());
    if last.as_ref() != Some(trouble) {
        let Trouble { code, message, cure } = trouble;
        tracing::warn!(outbox = name, code, message, cure, "an outbox cannot be read; trying again");
        *last = Some(trouble.clone());
    }
    let said = status::Trouble { code: trouble.code, message: &trouble.message, cure: trouble.cure };
    if let Err(error) = status::show(&parts.pool, scope, &status::Seen::Troubled(said)).await {
        tracing::debug!(%error, "an outbox's status could not be written");
    }
}
