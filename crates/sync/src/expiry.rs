//! Deletes documents on time, and forgets revisions that are too old.

use crate::{Documents, WriteOptions};
use document_store::{Change, DocumentKey};
use shared_types::Problem;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often documents are looked for whose time has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many of them are deleted at once.
const AT_ONCE: usize = 200;
/// How often old revisions are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// How long revisions are kept, in milliseconds.
const REVISION_AGE_MS: i64 = 30 * 24 * 3_600 * 1_000;

impl Documents {
    /// Runs until `stop`. Several processes may: what one has deleted, another lets be.
    pub async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forgotten = None::<Instant>;
        let mut failing = false;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = stop.cancelled() => return,
            }
            let mut outcome = self.delete_due(&stop).await;
            if outcome.is_ok() && forgotten.is_none_or(|at| at.elapsed() > FORGET_EVERY) {
                forgotten = Some(Instant::now());
                outcome = self.forget_revisions(&stop).await;
            }
            match outcome {
                // The store says by itself why it does not answer; here once is enough.
                Err(problem) if !failing => {
                    tracing::warn!(%problem, "documents cannot be deleted on time for now");
                    failing = true;
                }
                Err(_) => {}
                Ok(()) => failing = false,
            }
        }
    }

    async fn delete_due(&self, stop: &CancellationToken) -> Result<(), Problem> {
        while !stop.is_cancelled() {
            let due = self.store.due(self.now(), AT_ONCE).await?;
            let full = due.len() == AT_ONCE;
            for outcome in futures::future::join_all(due.iter().map(|key| self.expire(key))).await {
                outcome?;
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Deletes a document whose time has come; nothing where another process was faster.
    pub(crate) async fn expire(&self, key: &DocumentKey) -> Result<(), Problem> {
        let edit = self.rules.expire(key);
        match self.write(key, Change::Deleted, edit, WriteOptions::default()).await {
            Err(problem) if problem.code != "NOT_FOUND" => Err(problem),
            _ => Ok(()),
        }
    }

    async fn forget_revisions(&self, stop: &CancellationToken) -> Result<(), Problem> {
        let before = self.now() - REVISION_AGE_MS;
        while !stop.is_cancelled() && self.store.forget_revisions(before).await? > 0 {}
        Ok(())
    }
}
