//! The composition root: from configuration to a running set of parts, and back down in order.
//!
//! Owns which parts exist, their background tasks and the order of starting and stopping. Knows no HTTP: the
//! backend and the workers build on a [`Platform`].

mod program;
mod stopping;
mod tasks;

pub use program::{ProgramError, install_crypto, listen, program, until_stopped};
pub use stopping::StopTimes;
pub use tasks::Tasks;

use auth::{AuthSettings, Authenticator};
use database::{
    documents::{PostgresArchive, PostgresDocumentStore},
    event_log::{LogSettings, PostgresEventLog},
    leader::{PostgresLeader, PostgresTerms},
    migrate,
    pool::{Pool, PoolSettings, connect_lazy},
    presence::PostgresPresence,
    sealing::Sealer,
};
use document_store::{DocumentStore, Durability};
use event_log::EventLog;
use event_router::EventRouter;
use leadership::Leader;
use metrics::Metrics;
use presence::Presence;
use redis_layer::{
    RedisCounters, RedisDocumentStore, RedisError, RedisLeader, RedisSettings, event_log::RedisEventLog,
};
use sha2::{Digest as _, Sha256};
use shared_config::{Config, Environment, SyncWriteMode};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use sync::{Documents, DocumentsSettings};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the start waits for the database before it goes on without.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before migrations are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a platform cannot be started at all.
#[derive(Debug, Error)]
pub enum PlatformError {
    /// The database's connection string cannot be used.
    #[error("the platform database cannot be used: {0}")]
    Database(#[from] database::DatabaseError),
    /// `REDIS_URL` cannot be used.
    #[error("{0}")]
    Redis(#[from] RedisError),
}

/// The parts that every process of the platform has.
pub struct Platform {
    /// What it was configured with.
    pub config: Config,
    /// The platform's database.
    pub pool: Pool,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// Who is where.
    pub presence: Arc<dyn Presence>,
    /// Counters that all instances share, where there is a Redis.
    pub counters: Option<RedisCounters>,
    /// The way into it.
    pub router: EventRouter,
    /// All operations on documents.
    pub documents: Arc<Documents>,
    /// Who may do what.
    pub authenticator: Arc<Authenticator>,
    /// Seals secrets at rest.
    pub sealer: Arc<Sealer>,
    /// Whether the process is stopping.
    pub draining: Arc<AtomicBool>,
    redis: Option<Arc<RedisEventLog>>,
    stop_times: OnceLock<StopTimes>,
    /// Its background tasks.
    pub tasks: Tasks,
    migrated: watch::Sender<bool>,
}

impl Platform {
    /// Starts the parts. A database that does not answer is waited for a few seconds, and then in the background.
    ///
    /// # Errors
    /// Where the configuration cannot be used at all.
    pub async fn start(config: Config, service: &str) -> Result<Arc<Self>, PlatformError> {
        let pool = connect_lazy(&PoolSettings {
            min_connections: config.postgres.pool_min,
            max_connections: config.postgres.pool_max,
            application_name: format!("realtime {service}"),
            ..PoolSettings::new(config.postgres.url())
        })?;
        let metrics = Metrics::new();
        let tasks = Tasks::default();
        let Shared { log, store, presence, counters, redis } = shared(&config, &pool, &metrics, &tasks)?;
        let documents = Arc::new(Documents::new(store, metrics.clone(), documents_settings(&config)));
        let sealer = Arc::new(sealer(&config));
        let authenticator = Arc::new(Authenticator::new(AuthSettings {
            pool: pool.clone(),
            sealer: sealer.clone(),
            jwt_secret: config.jwt_secret.as_ref().map(|secret| secret.expose().to_owned()),
        }));
        let platform = Arc::new(Self {
            router: EventRouter::new(log.clone(), metrics.clone()),
            documents,
            config,
            pool,
            metrics,
            log,
            presence,
            counters,
            authenticator,
            sealer,
            draining: Arc::new(AtomicBool::new(false)),
            redis,
            stop_times: OnceLock::new(),
            tasks,
            migrated: watch::Sender::new(false),
        });
        platform.spawn_migrated("documents", |stop| platform.documents.clone().sweep(stop));
        platform.migrate_and_follow().await;
        Ok(platform)
    }

    /// Whether the migrations have been applied by, or seen applied from, this process.
    pub fn is_migrated(&self) -> bool {
        *self.migrated.borrow()
    }

    /// Runs a background task once the migrations have been applied; it ends when the platform stops.
    pub fn spawn_migrated<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, mut migrated) = (self.tasks.stopping(), self.migrated.subscribe());
        let work = work(stop.clone());
        self.tasks.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => return,
                // Fails only where the platform is gone.
                _ = migrated.wait_for(|migrated| *migrated) => {}
            }
            work.await;
        });
    }

    /// Starts what says who leads what, for whoever would like to lead: on Redis where there is one, with terms that are
    /// counted in the database, else in the database. It ends with the background tasks: give leases back before.
    pub fn leader(&self) -> Arc<dyn Leader> {
        let (pool, stop) = (self.pool.clone(), self.tasks.stopping());
        self.tasks.spawn_with(|set| -> Arc<dyn Leader> {
            match &self.redis {
                Some(log) => RedisLeader::start(log, Arc::new(PostgresTerms::new(pool)), set, stop),
                None => PostgresLeader::start(pool, set, stop),
            }
        })
    }

    /// Applies migrations and follows keys and revocations: at once where the database answers, else as soon as it
    /// does.
    async fn migrate_and_follow(self: &Arc<Self>) {
        let begun = tokio::time::timeout(PATIENCE, self.prepare()).await.unwrap_or(false);
        if !begun {
            tracing::warn!("the platform database does not answer; starting without it and trying on");
        }
        let platform = Arc::downgrade(self);
        let stop = self.tasks.stopping();
        self.tasks.spawn("keys", async move {
            let follow = async {
                while let Some(platform) = platform.upgrade() {
                    if platform.is_migrated() || platform.prepare().await {
                        let authenticator = platform.authenticator.clone();
                        drop(platform);
                        return authenticator.follow().await;
                    }
                    drop(platform);
                    tokio::time::sleep(RETRY).await;
                }
            };
            tokio::select! {
                () = follow => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Applies migrations, takes the event log over where a Redis held it, and reads the keys once; answers whether that
    /// worked. Nobody is let in, and nothing appended, before.
    async fn prepare(&self) -> bool {
        match migrate::latest(&self.pool).await {
            Ok(applied) => {
                if !applied.is_empty() {
                    tracing::info!(migrations = ?applied, "migrations applied");
                }
                if self.redis.is_none()
                    && let Err(error) = database::event_log::take_over(&self.pool).await
                {
                    tracing::warn!(%error, "could not see whether a redis held the event log; trying again");
                    return false;
                }
                self.migrated.send_replace(true);
                if let Err(problem) = self.authenticator.refresh().await {
                    tracing::warn!(%problem, "could not read keys; trying on");
                }
                self.say_setup_code().await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "could not apply migrations; trying again");
                false
            }
        }
    }

    /// In production, the code that making the first account asks for, as long as there is none.
    async fn say_setup_code(&self) {
        let awaited = self.config.environment == Environment::Production
            && self.authenticator.setup_required().await.unwrap_or(false);
        if awaited {
            let code = self.authenticator.setup_code();
            tracing::warn!(setup.code = code, "nobody has an account yet; setting up asks for this code");
        }
    }

    /// Begins to stop, where nobody has yet: `/ready` says so from now on. Answers when what is to be over.
    pub fn begin_stop(&self) -> StopTimes {
        self.draining.store(true, Ordering::Release);
        *self.stop_times.get_or_init(|| StopTimes::new(tokio::time::Instant::now(), self.config.shutdown))
    }

    /// Stops all background tasks in order and closes the pool.
    pub async fn stop(&self) {
        let times = self.begin_stop();
        self.tasks.stop(times.ended).await;
        let _ = tokio::time::timeout_at(times.closed, self.pool.close()).await;
    }
}

/// What all instances share.
struct Shared {
    log: Arc<dyn EventLog>,
    store: Arc<dyn DocumentStore>,
    presence: Arc<dyn Presence>,
    counters: Option<RedisCounters>,
    redis: Option<Arc<RedisEventLog>>,
}

/// What all instances share: on Redis where there is one, else in the database.
fn shared(config: &Config, pool: &Pool, metrics: &Arc<Metrics>, tasks: &Tasks) -> Result<Shared, RedisError> {
    match &config.redis {
        Some(redis) => shared_on_redis(config, redis.url(), pool, metrics, tasks),
        None => Ok(shared_in_the_database(config, pool, metrics, tasks)),
    }
}

fn shared_in_the_database(config: &Config, pool: &Pool, metrics: &Arc<Metrics>, tasks: &Tasks) -> Shared {
    let stop = tasks.stopping();
    let settings = LogSettings {
        history: config.event_log.history,
        backlog_bytes: config.event_log.backlog_bytes,
        ..LogSettings::default()
    };
    let log = tasks.spawn_with(|set| {
        PostgresEventLog::start(pool.clone(), settings, metrics.clone(), set, stop.clone())
    });
    Shared {
        store: Arc::new(PostgresDocumentStore::new(pool.clone(), &log)),
        log,
        presence: Arc::new(PostgresPresence::new(pool.clone())),
        counters: None,
        redis: None,
    }
}

fn shared_on_redis(
    config: &Config,
    url: &str,
    pool: &Pool,
    metrics: &Arc<Metrics>,
    tasks: &Tasks,
) -> Result<Shared, RedisError> {
    let stop = tasks.stopping();
    let settings = RedisSettings {
        history: config.event_log.history,
        backlog_bytes: config.event_log.backlog_bytes,
        ..RedisSettings::new(url)
    };
    let log = tasks
        .spawn_with(|set| RedisEventLog::start(settings, pool.clone(), metrics.clone(), set, stop.clone()))?;
    let archive = Arc::new(PostgresArchive::new(pool.clone()));
    let store = tasks
        .spawn_with(|set| RedisDocumentStore::start(&log, archive, config.sync_doc_ttl, set, stop.clone()));
    let (presence, counters) = (Arc::new(log.presence()), Some(log.counters()));
    Ok(Shared { redis: Some(log.clone()), log, store, presence, counters })
}

/// How documents are kept: as large as a request may be.
fn documents_settings(config: &Config) -> DocumentsSettings {
    DocumentsSettings {
        max_bytes: config.limits.body_bytes,
        durability: match config.sync_write_mode {
            SyncWriteMode::WriteBehind => Durability::Acknowledged,
            SyncWriteMode::WriteThrough => Durability::Committed,
        },
        clock: Arc::new(event_router::now_ms),
    }
}

/// The sealer of this installation. Without a configured key, which only production insists on, what is sealed is
/// as safe as the source code is secret: said in the log.
fn sealer(config: &Config) -> Sealer {
    match &config.secret_key {
        Some(key) => Sealer::new(key.expose()),
        None => {
            debug_assert!(config.environment != Environment::Production);
            tracing::warn!(
                "REALTIME_SECRET_KEY is not set: stored secrets are sealed with a development key"
            );
            Sealer::new(&Sha256::digest("realtime development key").into())
        }
    }
}
