//! Keeps a target as its mappings want it: slot, publication, replica identities, heartbeat.
//!
//! Prepares the target before the stream begins, then looks after it while it runs. It notices changed mappings
//! within [`LOOK`] and hands the reader a new plan.

use crate::{
    farewell::{forget, scope_text, sealing_context},
    lead::Group,
    plan::Plan,
    service::Origin,
    status::{Status, lsn_text},
    target::{
        self, Identity, Names, inspect,
        publication::{self, Manage, Standing},
        slot,
    },
    trouble::Trouble,
};
use database::{
    Pool,
    sealing::Sealer,
    tables::{
        cdc::{self, Gap, MappingState, MappingStatus},
        cdc_backfills,
        cdc_slots::{self, RegisteredSlot},
        mappings::{self, Mapping},
    },
};
use event_router::now_ms;
use outbound::Policy;
use shared_types::{MappingId, Scope, mapping::TableName};
use sqlx::PgConnection;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How often it looks for changed mappings.
const LOOK: Duration = Duration::from_millis(250);
/// How soon it looks again at tables that need somebody's hand.
const REFUSED_AGAIN: Duration = Duration::from_secs(2);
/// How soon it tries a lock again; twice that each time, up to [`RECHECK`].
const LOCK_AGAIN: Duration = Duration::from_secs(1);
/// How often it looks whether publication, tables and types are still as they were.
const RECHECK: Duration = Duration::from_secs(30);
/// How often it looks how much log the target keeps for the slot.
const WATCH: Duration = Duration::from_secs(2);
/// How often a slot that lags behind other databases' log is moved by a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The lag from which a heartbeat is worth it: one segment.
const HEARTBEAT_LAG: u64 = 16 << 20;

/// What the stream needs to begin.
pub(crate) struct Prepared {
    /// When the slot was made, as it was noted.
    pub creation: String,
    /// Whether the subscribers of the topics are still to be told of what was lost with an earlier slot.
    pub gap_untold: bool,
}

/// What is looked after.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    /// Which database.
    pub identity: Identity,
    /// Its slot and publication.
    pub names: Names,
    /// Where it is, and who wants it read.
    pub group: Group,
}

/// Looks after one target.
pub(crate) struct Caretaker {
    pub charge: Charge,
    pub pool: Pool,
    sealer: Arc<Sealer>,
    status: Arc<Status>,
    pub plan: watch::Sender<Arc<Plan>>,
    /// Why the slot must be made anew before it is read again.
    remake: Option<String>,
    control: Option<target::Connection>,
    seen: Option<i64>,
    look_again: Instant,
    lock_wait: Duration,
    heartbeat_due: Instant,
    watch_due: Instant,
}

impl Caretaker {
    /// A caretaker that has not looked yet.
    pub fn new(pool: Pool, sealer: Arc<Sealer>, charge: Charge, status: Arc<Status>) -> Self {
        Self {
            charge,
            pool,
            sealer,
            status,
            plan: watch::Sender::new(Arc::new(Plan::default())),
            remake: None,
            control: None,
            seen: None,
            look_again: Instant::now(),
            lock_wait: LOCK_AGAIN,
            heartbeat_due: Instant::now(),
            watch_due: Instant::now(),
        }
    }

    /// Brings the target into the state in which it can be read; `None` where no mapping is active, and so neither
    /// slot nor publication is kept.
    ///
    /// # Errors
    /// The trouble that keeps it from it.
    pub async fn prepare(&mut self) -> Result<Option<Prepared>, Trouble> {
        self.control = None;
        let (version, active) = self.active().await?;
        if active.is_empty() {
            self.give_up().await?;
            self.seen = Some(version);
            return Ok(None);
        }
        target::limited(target::check_wal_level(self.control().await?)).await?;
        let aligned = self.align(active).await?;
        // Making a slot can take as long as the longest open transaction.
        self.status.set_mappings(aligned.statuses(Slot::Wanted));
        let prepared = self.slot().await?;
        self.seen = Some(version);
        self.announce(aligned);
        Ok(Some(prepared))
    }

    /// Looks after the target while it is read; ends when no mapping is active any more.
    pub async fn tend(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let due = Instant::now() >= self.look_again;
            match self.look(due).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(trouble) => {
                    // The stream goes on with the plan that it has.
                    tracing::warn!(%trouble, cdc.slot = %self.charge.names.slot, "cannot look after the target");
                    self.control = None;
                    self.look_again = Instant::now() + REFUSED_AGAIN;
                }
            }
        }
    }

    /// Waits until mappings have changed.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Ok(version) = cdc::version(&self.pool).await
                && self.seen != Some(version)
            {
                return;
            }
        }
    }

    /// Looks once; whether any mapping is active.
    async fn look(&mut self, due: bool) -> Result<bool, Trouble> {
        let version = cdc::version(&self.pool).await.map_err(Trouble::platform)?;
        if due || self.seen != Some(version) {
            let (version, active) = self.active().await?;
            if active.is_empty() {
                return Ok(false);
            }
            // Mappings of other targets change too.
            if due || !self.plan.borrow().holds(&active) {
                let aligned = self.align(active).await?;
                self.announce(aligned);
            }
            self.seen = Some(version);
        }
        if Instant::now() >= self.watch_due {
            self.watch_slot().await?;
        }
        if Instant::now() >= self.heartbeat_due {
            self.heartbeat_due = Instant::now() + HEARTBEAT;
            if self.status.lag_bytes() > HEARTBEAT_LAG && self.status.lag_ms.load(Ordering::Relaxed) == 0 {
                target::limited(target::heartbeat(self.control().await?)).await?;
            }
        }
        Ok(true)
    }

    /// Looks how much of its log the target keeps for the slot.
    ///
    /// # Errors
    /// The trouble that keeps it from it.
    pub async fn watch_slot(&mut self) -> Result<(), Trouble> {
        self.watch_due = Instant::now() + WATCH;
        let name = self.charge.names.slot.clone();
        let retained = target::limited(inspect::retained(self.control().await?, &name)).await?;
        self.status.set_retained(retained);
        Ok(())
    }

    async fn control(&mut self) -> Result<&mut PgConnection, Trouble> {
        if self.control.is_none() {
            let mut connection = target::connect(&self.charge.group.url).await?;
            // Before anything is changed there: the URL may lead elsewhere since it was asked.
            if target::limited(target::identity(&mut connection)).await? != self.charge.identity {
                return Err(Trouble::other_cluster());
            }
            self.control = Some(connection);
        }
        self.control.as_deref_mut().ok_or_else(|| Trouble::unreachable("the connection ended"))
    }

    async fn active(&self) -> Result<(i64, Vec<Mapping>), Trouble> {
        // The version first: a change in between is then noticed once more, not missed.
        let version = cdc::version(&self.pool).await.map_err(Trouble::platform)?;
        let active =
            mappings::active(&self.pool, &self.charge.group.scopes).await.map_err(Trouble::platform)?;
        Ok((version, active))
    }

    /// Brings the publication in line with `active`.
    async fn align(&mut self, active: Vec<Mapping>) -> Result<Aligned, Trouble> {
        let mut wanted: BTreeMap<TableName, bool> = BTreeMap::new();
        for mapping in &active {
            *wanted.entry(mapping.definition.table.clone()).or_default() |=
                mapping.definition.needs_old_row();
        }
        let (publication, manage) = (self.charge.names.publication.clone(), self.charge.group.manage);
        let control = self.control().await?;
        let own_types = target::limited(target::own_types(control)).await?;
        // Each table may wait for its lock.
        let patience = target::STATEMENT_TIMEOUT
            + publication::LOCK_TIMEOUT * 2 * u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let aligning = publication::align(control, &publication, &wanted, manage);
        let standings = match tokio::time::timeout(patience, aligning).await {
            Ok(standings) => standings?,
            Err(_) => {
                self.control = None;
                return Err(Trouble::unreachable("no answer in time"));
            }
        };
        self.schedule(&standings);
        Ok(Aligned { plan: Arc::new(Plan { mappings: active, own_types }), standings })
    }

    fn schedule(&mut self, standings: &BTreeMap<TableName, Standing>) {
        let waiting = standings.values().any(|s| matches!(s, Standing::Waiting(_)));
        let refused = standings.values().any(|s| matches!(s, Standing::Refused(_)));
        let mut wait = if refused { REFUSED_AGAIN } else { RECHECK };
        if waiting {
            wait = wait.min(self.lock_wait);
            self.lock_wait = (self.lock_wait * 2).min(RECHECK);
        } else {
            self.lock_wait = LOCK_AGAIN;
        }
        self.look_again = Instant::now() + wait;
    }

    /// Hands the plan to the reader, and only then calls its mappings live: whatever is committed from now on is
    /// read after the plan was taken up.
    fn announce(&self, aligned: Aligned) {
        let statuses = aligned.statuses(Slot::There);
        self.plan.send_replace(aligned.plan);
        self.status.set_mappings(statuses);
    }

    /// Whether any mapping is active.
    ///
    /// # Errors
    /// Where the platform's database does not say.
    pub async fn has_mappings(&self) -> Result<bool, Trouble> {
        Ok(!self.active().await?.1.is_empty())
    }

    /// Notes that subscribers were told of the gap.
    ///
    /// # Errors
    /// Where the platform's database does not take it: then they are told again.
    pub async fn note_told(&self) -> Result<(), Trouble> {
        let (system, name) = (&self.charge.identity.system, &self.charge.names.slot);
        cdc_slots::note_told(&self.pool, system, name).await.map_err(Trouble::platform)
    }

    /// Finds or makes the slot.
    async fn slot(&mut self) -> Result<Prepared, Trouble> {
        let (name, system) = (self.charge.names.slot.clone(), self.charge.identity.system.clone());
        let noted = cdc_slots::note(&self.pool, &system, &name).await.map_err(Trouble::platform)?;
        self.register().await?;
        let noted = noted.unwrap_or_default();
        let remake = self.remake.clone();
        let control = self.control().await?;
        let found = target::limited(slot::find(control, &name)).await?;
        let confirmed = found.as_ref().and_then(|slot| slot.confirmed.clone());
        let lost = match &found {
            None if noted.creation.is_some() => Some("the replication slot was dropped".to_owned()),
            None => None,
            Some(slot) if slot.lost => {
                Some("the target threw away what the slot had not read (max_slot_wal_keep_size)".to_owned())
            }
            Some(_) => remake,
        };
        let lost = lost.map(|reason| Gap {
            reason,
            noticed_at: now_ms(),
            from_lsn: confirmed.clone(),
            to_lsn: String::new(),
        });
        if found.is_some() && lost.is_none() {
            target::limited(slot::release(control, &name)).await?;
            let creation = match noted.creation {
                Some(creation) => {
                    noted.gap.into_iter().for_each(|gap| self.status.set_gap(gap));
                    creation
                }
                // Made by one that died before it could say so.
                None => self.note(&confirmed.unwrap_or_default(), noted.gap).await?,
            };
            return Ok(Prepared { creation, gap_untold: noted.gap_untold });
        }
        let gap_untold = noted.gap_untold || lost.is_some();
        if let Some(gap) = &lost {
            cdc_slots::note_loss(&self.pool, &system, &name, gap).await.map_err(Trouble::platform)?;
        }
        let control = self.control().await?;
        if found.is_some() {
            target::limited(slot::drop(control, &name)).await?;
        }
        let lsn = slot::create(control, &name).await?;
        // Its longer statement timeout goes with the connection.
        self.control = None;
        let creation = self.note(&lsn, lost.or(noted.gap)).await?;
        self.remake = None;
        Ok(Prepared { creation, gap_untold })
    }

    /// Notes how the target is reached and by whom it is named, before its slot is made.
    async fn register(&self) -> Result<(), Trouble> {
        let Charge { identity, names, group } = &self.charge;
        let context = sealing_context(&identity.system, &names.slot);
        let known_to_all = group.origin == Origin::Settings;
        let registered = RegisteredSlot {
            system_identifier: identity.system.clone(),
            slot: names.slot.clone(),
            database_name: identity.database.clone(),
            publication: names.publication.clone(),
            manages: group.manage == Manage::Allowed,
            allow_private: group.url.policy() == Policy::Any,
            sealed_url: known_to_all.then(|| self.sealer.seal(&group.url.to_text(), &context)),
            scopes: group.scopes.iter().map(scope_text).collect(),
        };
        cdc_slots::register(&self.pool, &registered).await.map_err(Trouble::platform)
    }

    /// Notes that the slot was made at `lsn`; a gap that is still open ends there.
    async fn note(&self, lsn: &str, gap: Option<Gap>) -> Result<String, Trouble> {
        let (system, name) = (&self.charge.identity.system, &self.charge.names.slot);
        let creation = format!("{lsn}@{}", now_ms());
        let gap =
            gap.map(|gap| if gap.to_lsn.is_empty() { Gap { to_lsn: lsn.to_owned(), ..gap } } else { gap });
        let mut transaction = self.pool.begin().await.map_err(Trouble::platform)?;
        cdc_slots::note_creation(&mut *transaction, system, name, &creation, gap.as_ref())
            .await
            .map_err(Trouble::platform)?;
        if gap.is_some() {
            let scopes = &self.charge.group.scopes;
            cdc_backfills::request_resync(&mut *transaction, scopes).await.map_err(Trouble::platform)?;
        }
        transaction.commit().await.map_err(Trouble::platform)?;
        if let Some(gap) = gap {
            tracing::error!(cdc.slot = %name, reason = gap.reason, "changes were lost with the replication slot");
            self.status.set_gap(gap);
        }
        Ok(creation)
    }

    /// Drops slot and publication, so that a target that nobody reads keeps no log for us.
    ///
    /// # Errors
    /// The trouble that keeps it from it.
    pub async fn give_up(&mut self) -> Result<(), Trouble> {
        self.plan.send_replace(Arc::new(Plan::default()));
        self.status.set_mappings(BTreeMap::new());
        let (names, manage) = (self.charge.names.clone(), self.charge.group.manage);
        let control = self.control().await?;
        target::limited(slot::drop(control, &names.slot)).await?;
        if manage == Manage::Allowed {
            target::limited(publication::drop(control, &names.publication)).await?;
        }
        self.control = None;
        forget(&self.pool, &self.charge.identity.system, &names.slot).await
    }

    /// Notes that the slot must be made anew, where `trouble` says so.
    pub fn consider(&mut self, trouble: &Trouble) {
        if trouble.code == crate::trouble::PUBLICATION_UNKNOWN {
            let at = lsn_text(self.status.confirmed.load(Ordering::Relaxed));
            self.remake = Some(format!("{} (confirmed up to {at})", trouble.message));
        }
    }
}

/// A plan, and how its tables stand.
struct Aligned {
    plan: Arc<Plan>,
    standings: BTreeMap<TableName, Standing>,
}

/// Whether there is a slot that keeps what is committed from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    There,
    Wanted,
}

impl Aligned {
    fn statuses(&self, slot: Slot) -> BTreeMap<(Scope, MappingId), MappingStatus> {
        let key = |mapping: &Mapping| (mapping.scope.clone(), mapping.id.clone());
        self.plan.mappings.iter().map(|mapping| (key(mapping), self.status(mapping, slot))).collect()
    }

    fn status(&self, mapping: &Mapping, slot: Slot) -> MappingStatus {
        let table = &mapping.definition.table;
        let (state, trouble) = match self.standings.get(table) {
            Some(Standing::Published { .. }) if slot == Slot::Wanted => (MappingState::Pending, None),
            Some(Standing::Published { old_rows_missing: true }) if mapping.definition.needs_old_row() => {
                (MappingState::Live, Some(old_rows_missing(table)))
            }
            Some(Standing::Published { .. }) => (MappingState::Live, None),
            Some(Standing::Waiting(trouble)) => (MappingState::Pending, Some(trouble.clone())),
            Some(Standing::Refused(trouble)) => (MappingState::Error, Some(trouble.clone())),
            None => (MappingState::Pending, None),
        };
        MappingStatus {
            mapping_id: mapping.id.to_string(),
            table: table.to_string(),
            state,
            message: trouble.as_ref().map(|t| t.message.clone()),
            cure: trouble.map(|t| t.cure),
        }
    }
}

fn old_rows_missing(table: &TableName) -> Trouble {
    let sql = format!(
        "alter table {}.{} replica identity full;",
        target::quoted(&table.schema),
        target::quoted(&table.name)
    );
    Trouble::new(
        "OLD_ROWS_MISSING",
        format!("{table} does not tell its old rows: `changed` and `triggerColumns` fire on every update"),
        sql,
    )
}
