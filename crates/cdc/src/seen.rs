//! What was read last, noted in the platform's database, so that a target that was set back is recognized.
//!
//! A target that is put back to an earlier copy of itself is the same cluster on the same timeline, and writes other
//! changes at places of its log that it had used before; the event log would take them for repeats. But what was read
//! from a target stays in its log. So the slot's last transaction that made events is noted, and where the log ends
//! before it, or holds another in its place, the target was set back. Knows nothing of what becomes of that.

use crate::{caretaker::Charge, status::lsn_text, trouble::Trouble};
use database::{
    Pool,
    tables::cdc_slots::{self, Seen},
};
use parking_lot::Mutex;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often it is noted at the most.
const EVERY: Duration = Duration::from_millis(250);
/// How long noting it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was read last, under the creation of the slot that it was read from.
type Last = Option<(Arc<str>, Seen)>;

/// Keeps what was read last from one slot.
pub(crate) struct SeenKeeper {
    pool: Pool,
    system: String,
    slot: String,
    last: watch::Sender<Last>,
    noted: Mutex<Last>,
}

impl SeenKeeper {
    /// One that has not seen anything.
    pub fn new(pool: Pool, charge: &Charge) -> Arc<Self> {
        let (system, slot) = (charge.identity.system.clone(), charge.names.slot.clone());
        Arc::new(Self { pool, system, slot, last: watch::Sender::new(None), noted: Mutex::new(None) })
    }

    /// Takes in what was read last from the slot of this `creation`.
    pub fn see(&self, creation: &Arc<str>, seen: Seen) {
        self.last.send_if_modified(|last| {
            let is_news = last.as_ref().is_none_or(|(of, known)| of != creation || *known != seen);
            if is_news {
                *last = Some((creation.clone(), seen));
            }
            is_news
        });
    }

    /// Notes what was read last, where that is not noted yet.
    ///
    /// # Errors
    /// Where the platform's database does not take it.
    pub async fn note(&self) -> Result<(), Trouble> {
        let last = self.last.borrow().clone();
        let Some((creation, seen)) = &last else { return Ok(()) };
        if *self.noted.lock() == last {
            return Ok(());
        }
        let noting = cdc_slots::note_seen(&self.pool, &self.system, &self.slot, creation, *seen);
        match tokio::time::timeout(PATIENCE, noting).await {
            Ok(noted) => noted.map_err(Trouble::platform)?,
            Err(_) => return Err(Trouble::platform("no answer in time")),
        }
        *self.noted.lock() = last;
        Ok(())
    }

    /// Notes it whenever it has changed, as long as it is let.
    pub async fn run(&self) -> Infallible {
        let mut last = self.last.subscribe();
        loop {
            if let Err(trouble) = self.note().await {
                tracing::debug!(%trouble, cdc.slot = self.slot, "could not note what was read last; trying again");
            } else if last.changed().await.is_err() {
                // Its other end is held here.
                return std::future::pending().await;
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// What a stream has to hold, because it was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub Seen);

impl Expected {
    /// Whether `transaction`, which is the next one, is the one expected, which may still be to come.
    ///
    /// # Errors
    /// [`Trouble::set_back`] where there is another in its place.
    pub fn meet(self, transaction: Seen) -> Result<bool, Trouble> {
        if transaction.lsn < self.0.lsn {
            return Ok(false);
        }
        if transaction == self.0 { Ok(true) } else { Err(self.missed()) }
    }

    /// Everything before `wal_end` was read, and it was not among it.
    ///
    /// # Errors
    /// [`Trouble::set_back`] where it should have been.
    pub fn reached(self, wal_end: u64) -> Result<(), Trouble> {
        if wal_end > self.0.lsn { Err(self.missed()) } else { Ok(()) }
    }

    fn missed(self) -> Trouble {
        Trouble::set_back(&format!("its log does not hold what was read at {}", lsn_text(self.0.lsn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_met_again_or_the_target_was_set_back() {
        let seen = Seen { lsn: 50, commit_ms: 7, xid: 3 };
        let expected = Expected(seen);
        assert_eq!(expected.meet(Seen { lsn: 49, commit_ms: 6, xid: 2 }), Ok(false));
        assert_eq!(expected.meet(seen), Ok(true));
        for other in [Seen { xid: 4, ..seen }, Seen { commit_ms: 8, ..seen }, Seen { lsn: 51, ..seen }] {
            assert_eq!(expected.meet(other).unwrap_err().code, crate::trouble::SET_BACK);
        }
        // A sign of life may stand right before the commit, which is then still to come.
        assert_eq!(expected.reached(50), Ok(()));
        assert_eq!(expected.reached(51).unwrap_err().code, crate::trouble::SET_BACK);
    }
}
