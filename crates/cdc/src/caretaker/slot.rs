//! The slot in a caretaker's hands: found or made, known to the platform with what was lost before it, and given up.

use super::{Caretaker, Charge, Prepared};
use crate::{
    farewell::{forget, scope_text, sealing_context},
    plan::Plan,
    service::Origin,
    status::lsn_text,
    target::{
        self,
        publication::{self, Manage},
        slot,
    },
    trouble::{self, Trouble},
};
use database::tables::{
    cdc::Gap,
    cdc_backfills,
    cdc_slots::{self, RegisteredSlot, SlotNote},
};
use event_router::now_ms;
use outbound::Policy;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// Why a slot cannot be read on as it was.
#[derive(Clone, Debug)]
pub(super) enum Loss {
    /// What it has not read can never be read with it: another takes its place.
    OfSlot(String),
    /// It is that of an earlier state of the target: it is read on as another source.
    OfPast(String),
}

impl Caretaker {
    /// Finds or makes the slot.
    pub(super) async fn slot(&mut self) -> Result<Prepared, Trouble> {
        let (name, system) = (self.charge.names.slot.clone(), self.charge.identity.system.clone());
        let noted = cdc_slots::note(&self.pool, &system, &name).await.map_err(Trouble::platform)?;
        self.register().await?;
        let noted = noted.unwrap_or_default();
        let found = self.found(noted.creation.is_none()).await?;
        let loss = match &found {
            None if noted.creation.is_some() => {
                Some(Loss::OfSlot("the replication slot was dropped".to_owned()))
            }
            None => None,
            Some(slot) if slot.lost => Some(Loss::OfSlot(
                "the target threw away what the slot had not read (max_slot_wal_keep_size)".to_owned(),
            )),
            Some(_) => self.loss.clone(),
        };
        match (found, loss) {
            (Some(slot), None) => self.take_over(slot, noted).await,
            (Some(slot), Some(Loss::OfPast(reason))) => self.begin_anew(slot, noted, reason).await,
            (found, Some(Loss::OfSlot(reason) | Loss::OfPast(reason))) => {
                self.make(found, noted, Some(reason)).await
            }
            (None, None) => self.make(None, noted, None).await,
        }
    }

    /// The slot as it stands in the target, where it is there and finished.
    async fn found(&mut self, unfinished: bool) -> Result<Option<slot::Slot>, Trouble> {
        let name = self.charge.names.slot.clone();
        let control = self.control().await?;
        let found = target::limited(slot::find(control, &name)).await?;
        if found.is_none() || !unfinished {
            return Ok(found);
        }
        // Whoever made it has died, perhaps in the middle: what is not finished goes with the connection.
        target::limited(slot::release(control, &name)).await?;
        target::limited(slot::find(control, &name)).await
    }

    /// Takes over a slot that is there.
    async fn take_over(&mut self, slot: slot::Slot, noted: SlotNote) -> Result<Prepared, Trouble> {
        let name = self.charge.names.slot.clone();
        target::limited(slot::release(self.control().await?, &name)).await?;
        let SlotNote { creation, gap, gap_untold, seen } = noted;
        let creation = match creation {
            Some(creation) => {
                gap.into_iter().for_each(|gap| self.status.set_gap(gap));
                creation
            }
            // Made by one that died before it could say so.
            None => self.note(&slot.confirmed.unwrap_or_default(), gap).await?,
        };
        Ok(Prepared { creation, gap_untold, seen })
    }

    /// Takes over the slot of a target that was set back. It has what was committed since the state that it was set back
    /// to; the places in the log are those of another source, so that nothing of it is taken for known.
    async fn begin_anew(
        &mut self,
        slot: slot::Slot,
        noted: SlotNote,
        reason: String,
    ) -> Result<Prepared, Trouble> {
        let from_lsn = noted.seen.map(|seen| lsn_text(seen.lsn));
        let gap = Gap { reason, noticed_at: now_ms(), from_lsn, to_lsn: String::new() };
        self.note_loss(&gap).await?;
        let noted = SlotNote { creation: None, gap: Some(gap), gap_untold: true, seen: None };
        let prepared = self.take_over(slot, noted).await?;
        self.loss = None;
        Ok(prepared)
    }

    /// Makes the slot, in the place of the one that was `found`; with the `loss` of which a gap is said.
    async fn make(
        &mut self,
        found: Option<slot::Slot>,
        noted: SlotNote,
        loss: Option<String>,
    ) -> Result<Prepared, Trouble> {
        // Of a slot that is gone is known what was read last.
        let confirmed = found.as_ref().and_then(|slot| slot.confirmed.clone());
        let from_lsn = confirmed.or_else(|| noted.seen.map(|seen| lsn_text(seen.lsn)));
        let gap = loss.map(|reason| Gap { reason, noticed_at: now_ms(), from_lsn, to_lsn: String::new() });
        let gap_untold = noted.gap_untold || gap.is_some();
        if let Some(gap) = &gap {
            self.note_loss(gap).await?;
        }
        let name = self.charge.names.slot.clone();
        let control = self.control().await?;
        if found.is_some() {
            target::limited(slot::drop(control, &name)).await?;
        }
        let lsn = slot::create(control, &name).await?;
        // Its longer statement timeout goes with the connection.
        self.control = None;
        let creation = self.note(&lsn, gap.or(noted.gap)).await?;
        self.loss = None;
        Ok(Prepared { creation, gap_untold, seen: None })
    }

    /// Notes what is lost, before anything is changed: should this process die in between, the next one still says it.
    async fn note_loss(&self, gap: &Gap) -> Result<(), Trouble> {
        let (system, name) = (&self.charge.identity.system, &self.charge.names.slot);
        cdc_slots::note_loss(&self.pool, system, name, gap).await.map_err(Trouble::platform)?;
        // The log may end before where it ended.
        self.status.wal_end.store(0, Ordering::Relaxed);
        Ok(())
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
            tracing::error!(cdc.slot = %name, reason = gap.reason, "row changes do not connect to those of before");
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
        self.status.forget_slot();
        let control = self.control().await?;
        if manage == Manage::Allowed {
            target::limited(publication::drop(control, &names.publication)).await?;
        }
        self.control = None;
        forget(&self.pool, &self.charge.identity.system, &names.slot).await
    }

    /// Notes that the slot cannot be read on as it was, where `trouble` says so.
    pub fn consider(&mut self, trouble: &Trouble) {
        self.loss = match trouble.code {
            trouble::PUBLICATION_UNKNOWN => {
                let at = lsn_text(self.status.confirmed.load(Ordering::Relaxed));
                Some(Loss::OfSlot(format!("{} (confirmed up to {at})", trouble.message)))
            }
            trouble::SET_BACK => Some(Loss::OfPast(trouble.message.clone())),
            _ => return,
        };
    }

    /// Notes that subscribers were told of the gap.
    ///
    /// # Errors
    /// Where the platform's database does not take it: then they are told again.
    pub async fn note_told(&self) -> Result<(), Trouble> {
        let (system, name) = (&self.charge.identity.system, &self.charge.names.slot);
        cdc_slots::note_told(&self.pool, system, name).await.map_err(Trouble::platform)
    }
}
