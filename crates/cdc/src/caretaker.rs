//! Keeps a target as its mappings want it: slot, publication, replica identities, heartbeat.
//!
//! Prepares the target before the stream begins, then looks after it while it runs. It notices changed mappings
//! within [`LOOK`] and hands the reader a new plan.

mod aligned;
mod slot;

use crate::{
    lead::Group,
    plan::Plan,
    seen::{Expected, SeenKeeper},
    status::{Status, lsn_text},
    target::{
        self, Identity, Names, inspect,
        publication::{self, Standing},
    },
    trouble::Trouble,
};
use aligned::{Aligned, Slot};
use database::{
    Pool,
    sealing::Sealer,
    tables::{
        cdc,
        cdc_slots::Seen,
        mappings::{self, Mapping},
    },
};
use shared_types::mapping::TableName;
use slot::Loss;
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
/// How often it looks how much log the target keeps for the slot, and which tables the publication holds.
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
    /// The last transaction that was read from the slot and made events.
    pub seen: Option<Seen>,
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
    /// What was read last.
    pub seen: Arc<SeenKeeper>,
    /// Why the slot cannot be read on as it was.
    loss: Option<Loss>,
    control: Option<target::Connection>,
    /// The version of the mappings that were looked at last.
    version: Option<i64>,
    look_again: Instant,
    lock_wait: Duration,
    heartbeat_due: Instant,
    watch_due: Instant,
    /// The tables of the publication, where they were the same before and after it was aligned last.
    tables: Option<String>,
}

impl Caretaker {
    /// A caretaker that has not looked yet.
    pub fn new(pool: Pool, sealer: Arc<Sealer>, charge: Charge, status: Arc<Status>) -> Self {
        Self {
            seen: SeenKeeper::new(pool.clone(), &charge),
            charge,
            pool,
            sealer,
            status,
            plan: watch::Sender::new(Arc::new(Plan::default())),
            loss: None,
            control: None,
            version: None,
            look_again: Instant::now(),
            lock_wait: LOCK_AGAIN,
            heartbeat_due: Instant::now(),
            watch_due: Instant::now(),
            tables: None,
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
            self.version = Some(version);
            return Ok(None);
        }
        target::limited(target::check_wal_level(self.control().await?)).await?;
        let aligned = self.align(active).await?;
        // Making a slot can take as long as the longest open transaction.
        self.status.set_mappings(aligned.statuses(Slot::Wanted));
        let prepared = self.slot().await?;
        self.version = Some(version);
        self.announce(aligned);
        Ok(Some(prepared))
    }

    /// What a stream that reads the slot from now on has to hold, where it was `seen`; `None` where the slot was
    /// confirmed past it.
    ///
    /// # Errors
    /// [`Trouble::set_back`] where the target's log ends before it; else the trouble that keeps it from answering.
    pub async fn expected(&mut self, seen: Seen) -> Result<Option<Expected>, Trouble> {
        let name = self.charge.names.slot.clone();
        let standing = target::limited(target::slot::standing(self.control().await?, &name)).await?;
        let Some(standing) = standing else { return Ok(None) };
        if let Some(end) = standing.end.filter(|end| *end <= seen.lsn) {
            let (read, end) = (lsn_text(seen.lsn), lsn_text(end));
            return Err(Trouble::set_back(&format!("it was read up to {read}, and its log ends at {end}")));
        }
        Ok(standing.confirmed.filter(|confirmed| *confirmed <= seen.lsn).map(|_| Expected(seen)))
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
                && self.version != Some(version)
            {
                return;
            }
        }
    }

    /// Looks once; whether any mapping is active.
    async fn look(&mut self, due: bool) -> Result<bool, Trouble> {
        let version = cdc::version(&self.pool).await.map_err(Trouble::platform)?;
        if due || self.version != Some(version) {
            let (version, active) = self.active().await?;
            if active.is_empty() {
                return Ok(false);
            }
            // Mappings of other targets change too.
            if due || !self.plan.borrow().holds(&active) {
                let aligned = self.align(active).await?;
                self.announce(aligned);
            }
            self.version = Some(version);
        }
        if Instant::now() >= self.watch_due {
            self.watch_slot().await?;
            self.watch_tables().await?;
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

    /// Looks whether the publication still holds the same tables under the same names: a table that was made again is
    /// another, and is not in it.
    async fn watch_tables(&mut self) -> Result<(), Trouble> {
        let publication = self.charge.names.publication.clone();
        let tables = target::limited(publication::tables(self.control().await?, &publication)).await?;
        if self.tables.as_ref() != Some(&tables) {
            self.look_again = Instant::now();
        }
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
        let before = target::limited(publication::tables(control, &publication)).await?;
        // Each table may wait for its lock.
        let patience = target::STATEMENT_TIMEOUT
            + publication::LOCK_TIMEOUT * 2 * u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let aligning = publication::align(control, &publication, &wanted, manage);
        let standings = match tokio::time::timeout(patience, aligning).await {
            Ok(Ok(standings)) => standings,
            Ok(Err(trouble)) => {
                if trouble.code != "UNREACHABLE" {
                    let refused = Aligned::refused(Plan { mappings: active, own_types }, &trouble);
                    self.status.set_mappings(refused.statuses(Slot::Wanted));
                }
                return Err(trouble);
            }
            Err(_) => {
                self.control = None;
                return Err(Trouble::unreachable("no answer in time"));
            }
        };
        let after = target::limited(publication::tables(self.control().await?, &publication)).await?;
        // What has changed, here or elsewhere meanwhile, is looked at once more.
        self.tables = (before == after).then_some(after);
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
}
