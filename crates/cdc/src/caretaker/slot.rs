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
    trouble::Trouble,
};
use database::tables::{
    cdc::Gap,
    cdc_backfills,
    cdc_slots::{self, RegisteredSlot},
};
use event_router::now_ms;
use outbound::Policy;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

impl Caretaker {
    /// Finds or makes the slot.
    pub(super) async fn slot(&mut self) -> Result<Prepared, Trouble> {
        let (name, system) = (self.charge.names.slot.clone(), self.charge.identity.system.clone());
        let noted = cdc_slots::note(&self.pool, &system, &name).await.map_err(Trouble::platform)?;
        self.register().await?;
        let noted = noted.unwrap_or_default();
        let remake = self.remake.clone();
        let control = self.control().await?;
        let mut found = target::limited(slot::find(control, &name)).await?;
        if found.is_some() && noted.creation.is_none() {
            // Whoever made it has died, perhaps in the middle: what is not finished goes with the connection.
            target::limited(slot::release(control, &name)).await?;
            found = target::limited(slot::find(control, &name)).await?;
        }
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

    /// Notes that subscribers were told of the gap.
    ///
    /// # Errors
    /// Where the platform's database does not take it: then they are told again.
    pub async fn note_told(&self) -> Result<(), Trouble> {
        let (system, name) = (&self.charge.identity.system, &self.charge.names.slot);
        cdc_slots::note_told(&self.pool, system, name).await.map_err(Trouble::platform)
    }
}
