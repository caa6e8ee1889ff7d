//! Compares the targets that are named with those that are read: starts readers, stops them, and gives up the slots
//! of targets that nobody names any more.

use crate::{
    blind::Blinds,
    farewell::{self, Farewell},
    lead::{Group, Lead},
    reader::Ended,
    recorder,
    service::{CdcParts, CdcSettings, CdcTarget, Origin, TargetSource},
    target::{self, Identity, Names, TargetUrl, publication::Manage},
    trouble::Trouble,
};
use database::{
    DatabaseError,
    tables::{
        cdc::{self, ReaderState, ReaderStatus, StatusWriter},
        cdc_slots,
    },
};
use outbound::Policy;
use shared_types::{Environment, Scope};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};
use tokio::{
    task::{self, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How often targets, starts and stops are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(20);
/// How long a target that could not be asked who it is is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often slots are looked for that nobody needs any more.
const SWEEP: Duration = Duration::from_secs(2);
/// How long a slot that could not be given up is left alone.
const GIVE_UP_AGAIN: Duration = Duration::from_secs(60);

/// A group that this process runs, or waits to lead.
struct Running {
    group: Group,
    stop: CancellationToken,
    /// Whose end is its own: the same database may be led anew before the task of before has ended.
    task: task::Id,
}

/// What is known of who a URL leads to.
enum Known {
    Identity(Identity),
    Trouble(Trouble, Instant),
}

/// What becomes of the slot of a scope that is not to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// It stays where it is.
    Kept,
    /// Others who name the same database go on.
    ReadForOthers,
}

/// The targets as they are named now.
#[derive(Default)]
struct Named {
    /// The databases to read.
    wanted: BTreeMap<Identity, Group>,
    /// All that any scope names, to be read or not.
    kept: HashSet<Identity>,
    /// Scopes of which is not known what they name.
    unclear: HashSet<Scope>,
    /// Scopes that are not to be read, with what they name.
    stopped: Vec<(Scope, Identity)>,
}

/// Runs what has to run.
pub(crate) struct Supervisor {
    parts: CdcParts,
    settings: CdcSettings,
    targets: TargetSource,
    identities: HashMap<TargetUrl, Known>,
    asking: JoinSet<(TargetUrl, Result<Identity, Trouble>)>,
    asked: HashSet<TargetUrl>,
    running: BTreeMap<Identity, Running>,
    tasks: JoinSet<Ended>,
    /// What happens beside the readers.
    beside: JoinSet<()>,
    /// When each slot may be tried to be given up again.
    given_up: HashMap<(String, String), Instant>,
    sweep_due: Instant,
    /// The platform's own database, once it was asked.
    own: Option<Identity>,
    blinds: Blinds,
}

impl Supervisor {
    /// One that runs nothing yet.
    pub fn new(parts: CdcParts, settings: CdcSettings, targets: TargetSource) -> Self {
        Self {
            blinds: Blinds::new(parts.metrics.clone()),
            parts,
            settings,
            targets,
            identities: HashMap::new(),
            asking: JoinSet::new(),
            asked: HashSet::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            beside: JoinSet::new(),
            given_up: HashMap::new(),
            sweep_due: Instant::now(),
            own: None,
        }
    }

    /// Runs until `stop`; then every reader is stopped and every lease handed back.
    pub async fn run(&mut self, stop: &CancellationToken) {
        if let Some(kept) = self.settings.events_kept {
            self.beside.spawn(recorder::remove_old(self.parts.pool.clone(), kept, stop.clone()));
        }
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                looked = tokio::time::timeout(LOOK_WITHIN, self.look()) => match looked {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "cannot look for targets"),
                    Err(_) => tracing::warn!("cannot look for targets: no answer in time"),
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
                Some(Ok((url, identity))) = self.asking.join_next() => self.answered(url, identity),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                Some(_) = self.beside.join_next() => {}
            }
        }
        self.blinds.show(|_| false);
        self.asking.shutdown().await;
        self.beside.shutdown().await;
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn answered(&mut self, url: TargetUrl, identity: Result<Identity, Trouble>) {
        self.asked.remove(&url);
        let known = match identity {
            Ok(identity) => Known::Identity(identity),
            Err(trouble) => Known::Trouble(trouble.of_target(&url), Instant::now()),
        };
        self.identities.insert(url, known);
    }

    fn ended(&mut self, ended: Result<(task::Id, Ended), JoinError>) {
        let (task, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a reader failed");
                (error.id(), Ended::Stopped)
            }
        };
        let mut gone = self.running.extract_if(.., |_, running| running.task == task);
        if let Some((_, running)) = gone.next()
            && ended == Ended::OtherCluster
        {
            self.identities.remove(&running.group.url);
        }
    }

    /// Compares what should run with what runs.
    async fn look(&mut self) -> Result<(), DatabaseError> {
        let targets = (self.targets)().await?;
        let stopped: HashSet<Scope> = cdc::stopped(&self.parts.pool).await?.into_iter().collect();
        let named = self.named(targets, &stopped).await?;
        self.blinds.show(|scope| named.unclear.contains(scope) && !stopped.contains(scope));
        for (identity, running) in &self.running {
            if named.wanted.get(identity) != Some(&running.group) {
                running.stop.cancel();
            }
        }
        if Instant::now() >= self.sweep_due {
            self.sweep_due = Instant::now() + SWEEP;
            self.sweep(&named).await?;
        }
        for (identity, group) in named.wanted {
            if !self.running.contains_key(&identity) {
                self.start(identity, group);
            }
        }
        Ok(())
    }

    /// Gives up the slots of databases that no scope names any more. As long as it is not clear what a scope names,
    /// what it named last stays: a password that was changed is no farewell.
    async fn sweep(&mut self, named: &Named) -> Result<(), DatabaseError> {
        let unclear: HashSet<String> = named.unclear.iter().map(farewell::scope_text).collect();
        for slot in cdc_slots::reachable(&self.parts.pool).await? {
            let identity =
                Identity { system: slot.system_identifier.clone(), database: slot.database_name.clone() };
            let needed = named.kept.contains(&identity)
                || self.running.contains_key(&identity)
                || slot.scopes.iter().any(|scope| unclear.contains(scope));
            let key = (slot.system_identifier.clone(), slot.slot.clone());
            let again = self.given_up.get(&key).is_none_or(|again| Instant::now() >= *again);
            if !needed && again {
                self.given_up.insert(key, Instant::now() + GIVE_UP_AGAIN);
                let farewell =
                    Farewell { parts: self.parts.clone(), holder: self.settings.holder.clone(), slot };
                self.beside.spawn(farewell.say());
            }
        }
        self.given_up.retain(|_, again| Instant::now() < *again);
        Ok(())
    }

    /// What the scopes name.
    async fn named(
        &mut self,
        targets: Vec<CdcTarget>,
        stopped: &HashSet<Scope>,
    ) -> Result<Named, DatabaseError> {
        let mut named = Named::default();
        for CdcTarget { scope, url, manage, origin, network } in targets {
            let Some(url) = self.usable(&scope, url, network).await else {
                named.unclear.insert(scope);
                continue;
            };
            let Some(identity) = self.identity(&scope, &url, stopped.contains(&scope)).await else {
                named.unclear.insert(scope);
                continue;
            };
            named.kept.insert(identity.clone());
            if scope.environment() != Environment::Development && self.is_own(&identity).await? {
                self.show(&scope, ReaderState::Error, Some(&own_database())).await;
                continue;
            }
            if stopped.contains(&scope) {
                named.stopped.push((scope, identity));
                continue;
            }
            let group = named.wanted.entry(identity).or_insert_with(|| Group {
                url,
                scopes: Vec::new(),
                manage,
                origin,
            });
            group.scopes.push(scope);
            // One scope that forbids it is enough.
            if manage == Manage::Forbidden {
                group.manage = Manage::Forbidden;
            }
            if origin == Origin::Process {
                group.origin = Origin::Process;
            }
        }
        for (scope, identity) in &named.stopped {
            let slot = match named.wanted.contains_key(identity) {
                true => Slot::ReadForOthers,
                false => Slot::Kept,
            };
            self.show_stopped(scope, slot).await;
        }
        Ok(named)
    }

    /// The URL, where it can be used; else shows why not.
    async fn usable(
        &mut self,
        scope: &Scope,
        url: Result<String, String>,
        network: Policy,
    ) -> Option<TargetUrl> {
        let trouble = match url.map(|url| url.parse::<TargetUrl>()) {
            Ok(Ok(url)) => return Some(url.within(network)),
            Ok(Err(problem)) => Trouble::new(
                "TARGET_URL",
                problem.to_string(),
                "correct the URL in the application's settings",
            ),
            Err(reason) => Trouble::new(
                "TARGET_SEALED",
                format!("the target's URL cannot be opened: {reason}"),
                "start with the REALTIME_SECRET_KEY under which it was set, or set the URL again",
            ),
        };
        self.show(scope, ReaderState::Error, Some(&trouble)).await;
        None
    }

    /// Whether it is the platform's own database.
    async fn is_own(&mut self, identity: &Identity) -> Result<bool, DatabaseError> {
        if self.own.is_none() {
            let (system, database) = cdc::own_identity(&self.parts.pool).await?;
            self.own = Some(Identity { system, database });
        }
        Ok(self.own.as_ref() == Some(identity))
    }

    /// Who `url` leads to; `None` where that is not known yet, or it cannot be asked.
    async fn identity(&mut self, scope: &Scope, url: &TargetUrl, stopped: bool) -> Option<Identity> {
        match self.identities.get(url) {
            Some(Known::Identity(identity)) => return Some(identity.clone()),
            Some(Known::Trouble(trouble, since)) => {
                let (trouble, fresh) = (trouble.clone(), since.elapsed() < ASK_AGAIN);
                match stopped {
                    true => self.show_stopped(scope, Slot::Kept).await,
                    false => self.show(scope, ReaderState::Error, Some(&trouble)).await,
                }
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

    async fn show_stopped(&mut self, scope: &Scope, slot: Slot) {
        let trouble = match slot {
            Slot::Kept => Trouble::told_to_stop(),
            Slot::ReadForOthers => Trouble::told_to_stop_beside_others(),
        };
        self.show(scope, ReaderState::Stopped, Some(&trouble)).await;
    }

    /// Shows the state of a scope that no leader shows.
    async fn show(&mut self, scope: &Scope, state: ReaderState, trouble: Option<&Trouble>) {
        let status = ReaderStatus {
            state,
            code: trouble.map(|t| t.code.to_owned()),
            message: trouble.map(|t| t.message.clone()),
            cure: trouble.map(|t| t.cure.clone()),
            ..ReaderStatus::default()
        };
        let written = cdc::write_status(&self.parts.pool, scope, StatusWriter::Bystander, &status).await;
        match written {
            Ok(true) if state == ReaderState::Error => self.blinds.said(scope),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, app.id = %scope.application(), "could not write the reader's status");
            }
        }
    }

    fn start(&mut self, identity: Identity, group: Group) {
        let stop = CancellationToken::new();
        let settings = self.settings.clone();
        let lead = Lead {
            names: Names::new(&settings.slot_prefix, &settings.installation, &identity.database),
            parts: self.parts.clone(),
            settings,
            identity: identity.clone(),
            group: group.clone(),
            stop: stop.clone(),
        };
        let task = self.tasks.spawn(lead.run()).id();
        self.running.insert(identity, Running { group, stop, task });
    }
}

fn own_database() -> Trouble {
    Trouble::new(
        "OWN_DATABASE",
        "the target is the platform's own database, which is read in development only",
        "name the application's own database",
    )
}
