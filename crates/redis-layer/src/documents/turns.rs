//! Lanes write in turns while many do: who waits a moment gathers more for one script, and a script costs Redis about as
//! much as a document in it.

use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Scripts under way beyond which others wait: one that is run, and the next.
const AT_ONCE: usize = 2;
/// How long they wait at most: a server that is slow or gone holds nobody up whose documents are elsewhere.
const WAIT: Duration = Duration::from_millis(2);

/// Who may write.
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Turns {
    /// Waits for a turn, which ends with the answer's drop; after a moment goes without.
    pub async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(turn) = self.0.try_acquire() {
            return Some(turn);
        }
        tokio::time::timeout(WAIT, self.0.acquire()).await.ok()?.ok()
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
            held.push(turns.take().await.expect("a turn"));
        }
        let begun = tokio::time::Instant::now();
        assert!(turns.take().await.is_none());
        assert!(begun.elapsed() >= WAIT);
        drop(held.pop());
        assert!(turns.take().await.is_some());
    }
}
