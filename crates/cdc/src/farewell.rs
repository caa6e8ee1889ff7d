//! Giving up the slot of a target that nobody names any more.

use crate::{
    lead::{lease_name, renew_in_time},
    service::CdcParts,
    target::{self, TargetUrl, publication, slot},
    trouble::Trouble,
};
use database::{
    Pool,
    tables::{
        cdc_slots::{self, RegisteredSlot},
        cdc_spill::{self, SpillKey},
    },
};
use outbound::Policy;
use shared_types::Scope;
use std::time::Duration;
use tokio::time::Instant;

/// How long giving a slot up may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a scope stands in the registry of slots.
pub(crate) fn scope_text(scope: &Scope) -> String {
    format!("{}/{}", scope.application(), scope.environment())
}

/// What the URL of a registered slot is sealed for.
pub(crate) fn sealing_context(system: &str, slot: &str) -> String {
    format!("cdc_slots/{system}/{slot}/url")
}

/// Forgets a slot that was dropped, with what was spilled of it.
///
/// # Errors
/// Those of the platform's database.
pub(crate) async fn forget(pool: &Pool, system: &str, slot: &str) -> Result<(), Trouble> {
    let key = SpillKey { system_identifier: system.to_owned(), slot: slot.to_owned() };
    let lost = cdc_spill::forget(pool, &key).await.map_err(Trouble::platform)?;
    if lost > 0 {
        tracing::warn!(cdc.slot = slot, events = lost, "spilled events go with the target that nobody names");
    }
    cdc_slots::forget(pool, system, slot).await.map_err(Trouble::platform)
}

/// A slot to be given up.
pub(crate) struct Farewell {
    pub parts: CdcParts,
    pub holder: String,
    pub slot: RegisteredSlot,
}

impl Farewell {
    /// Drops slot and publication and forgets them, as their leader: whoever wants the target again meanwhile waits.
    /// Where that fails they stay, and it is said.
    pub async fn say(self) {
        let lease = lease_name(&self.slot.system_identifier, &self.slot.slot);
        let leader = &self.parts.leader;
        let asked = Instant::now();
        let Ok(Some(term)) = leader.acquire(&lease, &self.holder).await else { return };
        // Dropping a slot is fenced by nothing but the lease.
        let given_up = tokio::select! {
            given_up = tokio::time::timeout(PATIENCE, self.give_up()) => given_up.unwrap_or_else(|_| Err(too_late())),
            () = renew_in_time(leader.clone(), lease.clone(), term, asked) => Err(overtaken()),
        };
        match given_up {
            Ok(()) => tracing::info!(cdc.slot = self.slot.slot, "gave the target up"),
            Err(trouble) => {
                tracing::warn!(%trouble, cdc.slot = self.slot.slot, "a slot that nobody needs stays behind");
            }
        }
        if let Err(error) = leader.release(&lease, term).await {
            tracing::debug!(%error, lease, "could not hand the lease back");
        }
    }

    async fn give_up(&self) -> Result<(), Trouble> {
        let (system, name) = (&self.slot.system_identifier, &self.slot.slot);
        let sealed = self.slot.sealed_url.as_deref().unwrap_or_default();
        let url: TargetUrl = self
            .parts
            .sealer
            .open(sealed, &sealing_context(system, name))
            .map_err(Trouble::platform)?
            .parse()
            .map_err(|_| {
                Trouble::new("TARGET_URL", "the target's URL cannot be used", "drop the slot by hand")
            })?;
        let policy = if self.slot.allow_private { Policy::Any } else { Policy::Public };
        let url = url.within(policy);
        let mut connection = target::connect(&url).await?;
        if target::limited(target::identity(&mut connection)).await?.system == *system {
            target::limited(slot::drop(&mut connection, name)).await?;
            if self.slot.manages {
                target::limited(publication::drop(&mut connection, &self.slot.publication)).await?;
            }
        }
        forget(&self.parts.pool, system, name).await
    }
}

fn too_late() -> Trouble {
    Trouble::unreachable("no answer in time")
}

fn overtaken() -> Trouble {
    Trouble::platform("the lease could not be kept")
}
