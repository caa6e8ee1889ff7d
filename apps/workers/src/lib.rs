//! The workers: change data capture, the outbox, and the place of what else follows the event log.
//!
//! Knows no client connections. Row changes enter through [`cdc`] and [`outbox`]; events leave through the event
//! router.

pub mod health;

use anyhow::Result;
use cdc::{CdcParts, CdcService, CdcSettings, CdcTarget, SpillSettings, TargetSource};
use database::tables::installation;
use outbox::{OutboxParts, OutboxService};
use platform::Platform;
use shared_types::{AppId, Environment, Scope, ids::new_id};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How long to wait before the platform's database is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// After how long a log that does not answer is taken for one that takes nothing.
const SLOW_AFTER: Duration = Duration::from_secs(3);
/// The application that exists from the first migration on.
const DEFAULT_APPLICATION: &str = "app_default";

/// Running workers.
pub struct Workers {
    platform: Arc<Platform>,
    stop: CancellationToken,
    cdc: oneshot::Receiver<()>,
    outbox: oneshot::Receiver<()>,
}

impl Workers {
    /// Starts all workers of this process.
    ///
    /// # Errors
    /// Where a worker cannot be set up.
    pub async fn start(platform: Arc<Platform>) -> Result<Self> {
        let stop = CancellationToken::new();
        let (ended, cdc) = oneshot::channel();
        let stopping = stop.clone();
        let working = platform.clone();
        platform.tasks.spawn("change data capture", async move {
            read_targets(&working, stopping).await;
            let _ = ended.send(());
            // Ending before the platform does is what `stop` asked for.
            working.tasks.stopping().cancelled().await;
        });
        let (ended, outbox) = oneshot::channel();
        let (stopping, working) = (stop.clone(), platform.clone());
        platform.tasks.spawn("outbox", async move {
            outbox_service(&working).run(stopping).await;
            let _ = ended.send(());
            working.tasks.stopping().cancelled().await;
        });
        Ok(Self { platform, stop, cdc, outbox })
    }

    /// Hands over and ends.
    pub async fn stop(self) {
        let until = self.platform.begin_stop().served;
        self.stop.cancel();
        let end = |name: &'static str, ended: oneshot::Receiver<()>| async move {
            if tokio::time::timeout_at(until, ended).await.is_err() {
                tracing::warn!(worker = name, "a worker did not end in time");
            }
        };
        tokio::join!(end("change data capture", self.cdc), end("outbox", self.outbox));
    }
}

/// The reader of outboxes: the platform's own and those of the applications' databases.
fn outbox_service(platform: &Platform) -> OutboxService {
    OutboxService::new(OutboxParts {
        pool: platform.pool.clone(),
        database_url: platform.config.postgres.url().to_owned(),
        router: platform.router.clone(),
        metrics: platform.metrics.clone(),
        sealer: platform.sealer.clone(),
        private_by_default: is_development(platform),
    })
}

/// Whether this is somebody's own machine, or a test: then targets may be there too.
fn is_development(platform: &Platform) -> bool {
    use shared_config::Environment::{Development, Test};
    matches!(platform.config.environment, Development | Test)
}

/// Reads targets until `stop`, from when the platform's database answers.
async fn read_targets(platform: &Platform, stop: CancellationToken) {
    let installation = loop {
        match installation::id(&platform.pool).await {
            Ok(id) => break id,
            Err(error) => tracing::debug!(%error, "the installation's id cannot be read yet"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    let settings = CdcSettings {
        slot_prefix: platform.config.cdc.slot_name.clone(),
        installation,
        holder: format!("{}:{}", std::process::id(), new_id("worker")),
        events_kept: platform.config.cdc.events_kept,
        report_every: platform.config.cdc.heartbeat,
        spill: SpillSettings {
            limit_bytes: platform.config.cdc.spill_bytes,
            // Without Redis the log is in the database to which would be spilled.
            slow_after: platform.config.redis.is_some().then_some(SLOW_AFTER),
        },
    };
    let targets = targets(platform);
    let parts = CdcParts {
        pool: platform.pool.clone(),
        router: platform.router.clone(),
        metrics: platform.metrics.clone(),
        sealer: platform.sealer.clone(),
        leader: platform.leader(),
    };
    CdcService::new(parts, settings, targets).run(stop).await;
}

/// The targets that applications are set to; and `CDC_DATABASE_URL` as that of the default application, in the
/// environment that `NODE_ENV` names, as long as it is set to none itself.
fn targets(platform: &Platform) -> TargetSource {
    let applications =
        cdc::application_targets(platform.pool.clone(), platform.sealer.clone(), is_development(platform));
    let Some(url) = platform.config.cdc.database_url().map(str::to_owned) else { return applications };
    let environment = match platform.config.environment {
        shared_config::Environment::Production => Environment::Production,
        shared_config::Environment::Staging => Environment::Staging,
        shared_config::Environment::Development | shared_config::Environment::Test => {
            Environment::Development
        }
    };
    let scope = Scope::new(AppId::from_stored(DEFAULT_APPLICATION), environment);
    let manage = cdc::manage(&scope, None);
    let own = CdcTarget::of_process(scope, url, manage);
    Arc::new(move || {
        let (found, own) = (applications(), own.clone());
        Box::pin(async move {
            let mut found = found.await?;
            if !found.iter().any(|target| target.scope == own.scope) {
                found.push(own);
            }
            Ok(found)
        })
    })
}
