//! Lanes write in turns while many do: who waits a moment gathers more for one script, and a script costs Redis about as
//! much as a document in it.

use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Scripts under way beyond which others wait: one that is run, and the next.
const AT_ONCE: usize = 2;
/// How long they wait at most: a server that is slow or gone holds nobody up whose documents are elsewhere.
const WAIT: Duration = Duration::from_millis(2);

/// Who may write, until it is dropped.
pub type Turn = OwnedSemaphorePermit;

/// Gives turns.
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Turns {
    /// Waits for a turn; after a moment goes without.
    pub async fn take(&self) -> Option<Turn> {
        match self.try_take() {
            Some(turn) => Some(turn),
            None => tokio::time::timeout(WAIT, self.0.clone().acquire_owned()).await.ok()?.ok(),
        }
    }

    /// A turn that nobody wants, where there is one.
    pub fn try_take(&self) -> Option<Turn> {
        self.0.clone().try_acquire_owned().ok()
    }

    /// Whether there is one.
    pub fn is_free(&self) -> bool {
        self.0.available_permits() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_gets_the_next_turn_or_goes_without() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            assert!(turns.is_free());
            held.push(turns.take().await.expect("a turn"));
        }
        assert!(!turns.is_free() && turns.try_take().is_none());
        let begun = tokio::time::Instant::now();
        assert!(turns.take().await.is_none());
        assert!(begun.elapsed() >= WAIT);
        drop(held.pop());
        assert!(turns.take().await.is_some());
    }
}
