//! Which targets there are, and the service that reads those that this process leads.

use crate::{supervisor::Supervisor, target::publication::Manage};
use database::{
    DatabaseError, Pool,
    sealing::Sealer,
    tables::applications::{self, OpenedTarget},
};
use event_router::EventRouter;
use futures::future::BoxFuture;
use leadership::Leader;
use metrics::Metrics;
use outbound::Policy;
use shared_types::{Environment, Scope};
use std::{fmt, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Who knows of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The application's settings, which all processes read: who no longer finds it there may give its slot up.
    Settings,
    /// This process was started with it; others may not know it, and leave its slot alone.
    Process,
}

/// The target database of a scope.
#[derive(Clone)]
pub struct CdcTarget {
    /// Whose.
    pub scope: Scope,
    /// Its URL, as it was set; or why it cannot be had.
    pub url: Result<String, String>,
    /// Whether publication and replica identities may be changed.
    pub manage: Manage,
    /// Who knows of it.
    pub origin: Origin,
    /// Where its connections may lead.
    pub network: Policy,
}

impl fmt::Debug for CdcTarget {
    /// Without the URL, which holds a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, url: _, manage, origin, network } = self;
        f.debug_struct("CdcTarget")
            .field("scope", scope)
            .field("manage", manage)
            .field("origin", origin)
            .field("network", network)
            .finish_non_exhaustive()
    }
}

impl CdcTarget {
    /// A target of the application's settings.
    pub fn of_settings(scope: Scope, url: String, manage: Manage, network: Policy) -> Self {
        Self { scope, url: Ok(url), manage, origin: Origin::Settings, network }
    }

    /// A target that this process was started with: whoever did so may reach what they like.
    pub fn of_process(scope: Scope, url: String, manage: Manage) -> Self {
        Self { origin: Origin::Process, ..Self::of_settings(scope, url, manage, Policy::Any) }
    }
}

/// Where the targets come from.
pub type TargetSource =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<CdcTarget>, DatabaseError>> + Send + Sync>;

/// The targets that applications are set to. Where `manageTables` is not set, the reader keeps publication and
/// replica identities itself in development, and nowhere else. `private_by_default`: where nothing is set, they may be in
/// private networks.
pub fn application_targets(pool: Pool, sealer: Arc<Sealer>, private_by_default: bool) -> TargetSource {
    Arc::new(move || {
        let (pool, sealer) = (pool.clone(), sealer.clone());
        Box::pin(async move {
            let found = applications::with_cdc_targets(&pool, &sealer).await?;
            let target = |OpenedTarget { scope, url, manage_tables, allow_private }| CdcTarget {
                manage: manage(&scope, manage_tables),
                scope,
                url: url.map_err(|error| error.to_string()),
                origin: Origin::Settings,
                network: Policy::of(allow_private, private_by_default),
            };
            Ok(found.into_iter().map(target).collect())
        })
    })
}

/// Whether the reader may change a target of `scope`: as `manageTables` says, and where that is not set, in development.
pub fn manage(scope: &Scope, manage_tables: Option<bool>) -> Manage {
    match manage_tables.unwrap_or(scope.environment() == Environment::Development) {
        true => Manage::Allowed,
        false => Manage::Forbidden,
    }
}

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct CdcSettings {
    /// `CDC_SLOT_NAME`.
    pub slot_prefix: String,
    /// What tells this installation from others that may read the same cluster.
    pub installation: String,
    /// What tells this process from others of the installation, shown as `leader`.
    pub holder: String,
    /// How long what became of each row change is kept; `None`: it is not written down.
    pub events_kept: Option<Duration>,
    /// How often a reader reports its state, and sees whether an idle target needs a sign of life.
    pub report_every: Duration,
    /// When events are kept aside, and how many.
    pub spill: SpillSettings,
}

/// When events are kept in the platform's database instead of the log, and how many.
#[derive(Clone, Debug)]
pub struct SpillSettings {
    /// Bytes for each target; past it the target's log is kept. 0: nothing is spilled.
    pub limit_bytes: u64,
    /// After how long an append counts as too slow. `None` where the log is in the platform's database, which would be
    /// just as slow to spill to.
    pub slow_after: Option<Duration>,
}

/// What the service works with.
#[derive(Clone)]
pub struct CdcParts {
    /// The platform's database.
    pub pool: Pool,
    /// The way into the event log.
    pub router: EventRouter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Seals the URLs of targets that are kept.
    pub sealer: Arc<Sealer>,
    /// Who leads which target. Has to outlive the service, which gives its leases back.
    pub leader: Arc<dyn Leader>,
}

/// Reads every target that this process leads.
#[derive(Clone)]
pub struct CdcService {
    parts: CdcParts,
    settings: CdcSettings,
    targets: TargetSource,
}

impl CdcService {
    /// A service that does nothing until [`CdcService::run`].
    pub fn new(parts: CdcParts, settings: CdcSettings, targets: TargetSource) -> Self {
        Self { parts, settings, targets }
    }

    /// Runs until `stop`; then every reader is stopped and every lease handed back.
    pub async fn run(self, stop: CancellationToken) {
        Supervisor::new(self.parts, self.settings, self.targets).run(&stop).await;
    }
}
