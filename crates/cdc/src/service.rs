//! Which targets there are, and who reads them: discovery, one leader a target, start and stop.

use crate::{
    lead::{Group, Lead},
    liveness,
    reader::Ended,
    target::{self, Identity, Names, TargetUrl, publication::Manage},
    trouble::Trouble,
};
use database::{
    DatabaseError, Pool,
    sealing::Sealer,
    tables::{
        applications::{self, OpenedTarget},
        cdc::{self, ReaderState, ReaderStatus, StatusWriter},
        leases::LeaseSession,
    },
};
use event_router::EventRouter;
use futures::future::BoxFuture;
use metrics::Metrics;
use shared_types::{Environment, Scope};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often targets, starts and stops are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a target that could not be asked who it is is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The target database of a scope.
#[derive(Clone, Debug)]
pub struct CdcTarget {
    /// Whose.
    pub scope: Scope,
    /// Its URL, as it was set.
    pub url: String,
    /// Whether publication and replica identities may be changed.
    pub manage: Manage,
}

/// Where the targets come from.
pub type TargetSource =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<CdcTarget>, DatabaseError>> + Send + Sync>;

/// The targets that applications are set to. Where `manageTables` is not set, the reader keeps publication and
/// replica identities itself in development, and nowhere else.
pub fn application_targets(pool: Pool, sealer: Arc<Sealer>) -> TargetSource {
    Arc::new(move || {
        let (pool, sealer) = (pool.clone(), sealer.clone());
        Box::pin(async move {
            let found = applications::with_cdc_targets(&pool, &sealer).await?;
            let target = |OpenedTarget { scope, url, manage_tables }| match url {
                Ok(url) => {
                    let manage = match manage_tables {
                        Some(true) => Manage::Allowed,
                        Some(false) => Manage::Forbidden,
                        None => default_manage(&scope),
                    };
                    Some(CdcTarget { manage, scope, url })
                }
                Err(error) => {
                    tracing::error!(%error, app.id = %scope.application(), "a target's URL cannot be opened");
                    None
                }
            };
            Ok(found.into_iter().filter_map(target).collect())
        })
    })
}

/// Whether the reader may change a target of `scope` where nothing is set.
pub fn default_manage(scope: &Scope) -> Manage {
    match scope.environment() {
        Environment::Development => Manage::Allowed,
        Environment::Staging | Environment::Production => Manage::Forbidden,
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
}

/// Reads every target that this process leads.
#[derive(Clone)]
pub struct CdcService {
    pub(crate) pool: Pool,
    pub(crate) router: EventRouter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: CdcSettings,
    targets: TargetSource,
}

/// A group that this process runs, or waits to lead.
struct Running {
    group: Group,
    stop: CancellationToken,
    /// What becomes of its slot when it ends.
    farewell: Arc<AtomicBool>,
}

impl CdcService {
    /// A service that does nothing until [`CdcService::run`].
    pub fn new(
        pool: Pool,
        router: EventRouter,
        metrics: Arc<Metrics>,
        settings: CdcSettings,
        targets: TargetSource,
    ) -> Self {
        Self { pool, router, metrics, settings, targets }
    }

    /// Runs until `stop`; then every reader is stopped and every lease handed back.
    pub async fn run(self, stop: CancellationToken) {
        let (pool, told) = (self.pool.clone(), watch::Sender::new(None));
        let mut supervisor = Supervisor {
            service: self,
            identities: HashMap::new(),
            asking: JoinSet::new(),
            asked: HashSet::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            own: None,
            session: told.subscribe(),
        };
        let mut liveness = JoinSet::new();
        let alive = CancellationToken::new();
        liveness.spawn(liveness::keep(pool, told, alive.clone()));
        supervisor.run(&stop).await;
        // Only now: leases that are still held hold as long as the session does.
        alive.cancel();
        while liveness.join_next().await.is_some() {}
    }
}

/// What is known of who a URL leads to.
enum Known {
    Identity(Identity),
    Trouble(Trouble, Instant),
}

struct Supervisor {
    service: CdcService,
    identities: HashMap<TargetUrl, Known>,
    asking: JoinSet<(TargetUrl, Result<Identity, Trouble>)>,
    asked: HashSet<TargetUrl>,
    running: BTreeMap<Identity, Running>,
    tasks: JoinSet<(Identity, Ended)>,
    /// The platform's own database, once it was asked.
    own: Option<Identity>,
    /// The session that shows that this process lives.
    session: watch::Receiver<Option<LeaseSession>>,
}

fn own_database() -> Trouble {
    Trouble::new(
        "OWN_DATABASE",
        "the target is the platform's own database, which is read in development only",
        "name the application's own database",
    )
}

impl Supervisor {
    async fn run(&mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "cannot look for targets");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
                Some(Ok((url, identity))) = self.asking.join_next() => self.answered(url, identity),
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
        self.asking.shutdown().await;
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn answered(&mut self, url: TargetUrl, identity: Result<Identity, Trouble>) {
        self.asked.remove(&url);
        let known = match identity {
            Ok(identity) => Known::Identity(identity),
            Err(trouble) => Known::Trouble(trouble, Instant::now()),
        };
        self.identities.insert(url, known);
    }

    fn ended(&mut self, ended: Result<(Identity, Ended), tokio::task::JoinError>) {
        match ended {
            Ok((identity, ended)) => {
                let Some(running) = self.running.remove(&identity) else { return };
                if ended == Ended::OtherCluster {
                    self.identities.remove(&running.group.url);
                }
            }
            Err(error) => {
                // Whose it was is not told: all are looked at anew.
                tracing::error!(%error, "a reader failed");
                self.running.values().for_each(|running| running.stop.cancel());
                self.running.clear();
            }
        }
    }

    /// Compares what should run with what runs.
    async fn look(&mut self) -> Result<(), DatabaseError> {
        let targets = (self.service.targets)().await?;
        let stopped: HashSet<Scope> = cdc::stopped(&self.service.pool).await?.into_iter().collect();
        let (wanted, kept) = self.groups(targets, &stopped).await?;
        for (identity, running) in &self.running {
            if wanted.get(identity) != Some(&running.group) {
                // A database that no scope names any more is given up; one that is only stopped keeps its slot.
                let given_up = !kept.contains(identity);
                running.farewell.store(given_up, Ordering::Relaxed);
                running.stop.cancel();
            }
        }
        for (identity, group) in wanted {
            if !self.running.contains_key(&identity) {
                self.start(identity, group);
            }
        }
        Ok(())
    }

    /// The databases to read with their scopes, and all that any scope names.
    async fn groups(
        &mut self,
        targets: Vec<CdcTarget>,
        stopped: &HashSet<Scope>,
    ) -> Result<(BTreeMap<Identity, Group>, HashSet<Identity>), DatabaseError> {
        let (mut wanted, mut kept): (BTreeMap<Identity, Group>, _) = (BTreeMap::new(), HashSet::new());
        for CdcTarget { scope, url, manage } in targets {
            let url: TargetUrl = match url.parse() {
                Ok(url) => url,
                Err(problem) => {
                    let trouble = Trouble::new(
                        "TARGET_URL",
                        problem.to_string(),
                        "correct the URL in the application's settings",
                    );
                    self.show(&scope, ReaderState::Error, Some(&trouble)).await;
                    continue;
                }
            };
            let Some(identity) = self.identity(&scope, &url, stopped.contains(&scope)).await else {
                continue;
            };
            kept.insert(identity.clone());
            if scope.environment() != Environment::Development && self.is_own(&identity).await? {
                self.show(&scope, ReaderState::Error, Some(&own_database())).await;
                continue;
            }
            if stopped.contains(&scope) {
                self.show_stopped(&scope).await;
                continue;
            }
            let group = wanted.entry(identity).or_insert_with(|| Group { url, scopes: Vec::new(), manage });
            group.scopes.push(scope);
            // One scope that forbids it is enough.
            if manage == Manage::Forbidden {
                group.manage = Manage::Forbidden;
            }
        }
        Ok((wanted, kept))
    }

    /// Whether it is the platform's own database.
    async fn is_own(&mut self, identity: &Identity) -> Result<bool, DatabaseError> {
        if self.own.is_none() {
            let (system, database) = cdc::own_identity(&self.service.pool).await?;
            self.own = Some(Identity { system, database });
        }
        Ok(self.own.as_ref() == Some(identity))
    }

    /// Who `url` leads to; `None` where that is not known yet, or it cannot be asked.
    async fn identity(&mut self, scope: &Scope, url: &TargetUrl, stopped: bool) -> Option<Identity> {
        match self.identities.get(url) {
            Some(Known::Identity(identity)) => return Some(identity.clone()),
            Some(Known::Trouble(..)) if stopped => self.show_stopped(scope).await,
            Some(Known::Trouble(trouble, since)) => {
                let (trouble, fresh) = (trouble.clone(), since.elapsed() < ASK_AGAIN);
                self.show(scope, ReaderState::Error, Some(&trouble)).await;
                if fresh {
                    return None;
                }
            }
            None => {}
        }
        if self.asked.insert(url.clone()) {
            let url = url.clone();
            self.asking.spawn(async move {
                let identity = target::identify(&url).await;
                (url, identity)
            });
        }
        None
    }

    async fn show_stopped(&self, scope: &Scope) {
        let trouble = Trouble::new(
            "STOPPED",
            "it was told to stop; its slot keeps the target's log meanwhile",
            "POST /api/database/cdc/start",
        );
        self.show(scope, ReaderState::Stopped, Some(&trouble)).await;
    }

    /// Shows the state of a scope that no leader shows.
    async fn show(&self, scope: &Scope, state: ReaderState, trouble: Option<&Trouble>) {
        let status = ReaderStatus {
            state,
            code: trouble.map(|t| t.code.to_owned()),
            message: trouble.map(|t| t.message.clone()),
            cure: trouble.map(|t| t.cure.clone()),
            ..ReaderStatus::default()
        };
        let written = cdc::write_status(&self.service.pool, scope, StatusWriter::Bystander, &status).await;
        if let Err(error) = written {
            tracing::debug!(%error, app.id = %scope.application(), "could not write the reader's status");
        }
    }

    fn start(&mut self, identity: Identity, group: Group) {
        let stop = CancellationToken::new();
        let farewell = Arc::new(AtomicBool::new(false));
        let lead = Lead {
            service: self.service.clone(),
            names: Names::new(
                &self.service.settings.slot_prefix,
                &self.service.settings.installation,
                &identity.database,
            ),
            identity: identity.clone(),
            group: group.clone(),
            stop: stop.clone(),
            session: self.session.clone(),
            farewell: farewell.clone(),
        };
        self.running.insert(identity.clone(), Running { group, stop, farewell });
        self.tasks.spawn(async move { (identity, lead.run().await) });
    }
}
