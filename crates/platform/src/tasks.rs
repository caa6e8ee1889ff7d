//! The background tasks of a process: owned, watched, and stopped together.

use parking_lot::Mutex;
use std::future::Future;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// A set of background tasks. One that ends without having been told to is a fault, which ends the process in
/// order, so that whoever runs it starts it anew.
#[derive(Default)]
pub struct Tasks {
    set: Mutex<JoinSet<()>>,
    stopping: CancellationToken,
    failed: CancellationToken,
}

impl Tasks {
    /// Cancelled when the tasks are to end.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancelled when a task ended by itself or panicked.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Runs `task` until it ends.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stopping, failed) = (self.stopping.clone(), self.failed.clone());
        self.set.lock().spawn(async move {
            let guard = FailOnDrop { name, stopping, failed };
            task.await;
            drop(guard);
        });
    }

    /// Lets `start` add several tasks of a part.
    pub fn spawn_with<T>(&self, start: impl FnOnce(&mut JoinSet<()>) -> T) -> T {
        let mut part = JoinSet::new();
        let started = start(&mut part);
        let stopping = self.stopping.clone();
        self.spawn("a part's task", async move {
            // The first that ends unasked, or panics, ends the part.
            let ended = part.join_next().await;
            if stopping.is_cancelled() {
                while part.join_next().await.is_some() {}
            } else if let Some(Err(error)) = ended {
                tracing::error!(%error, "a background task failed");
            }
        });
        started
    }

    /// Tells all tasks to end and waits for them, at most until `until`.
    pub async fn stop(&self, until: Instant) {
        self.stopping.cancel();
        let mut set = std::mem::take(&mut *self.set.lock());
        let all = async { while set.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, all).await.is_err() {
            tracing::warn!(tasks = set.len(), "background tasks did not end in time");
            set.abort_all();
        }
    }
}

/// A start that fails lets its tasks go: that is not their fault, and must not bury the reason.
impl Drop for Tasks {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// Notices the end of a task, by return or by panic.
struct FailOnDrop {
    name: &'static str,
    stopping: CancellationToken,
    failed: CancellationToken,
}

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        if !self.stopping.is_cancelled() {
            tracing::error!(task = self.name, "a background task ended unasked; stopping");
            self.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_task_that_ends_unasked_is_noticed() {
        let tasks = Tasks::default();
        tasks.spawn("short", async {});
        tasks.failed().cancelled().await;
    }

    #[tokio::test]
    async fn tasks_that_are_let_go_have_not_failed() {
        let tasks = Tasks::default();
        let (failed, (held, gone)) = (tasks.failed(), tokio::sync::oneshot::channel::<()>());
        tasks.spawn("held", async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        tokio::task::yield_now().await;
        drop(tasks);
        assert!(gone.await.is_err());
        tokio::task::yield_now().await;
        assert!(!failed.is_cancelled());
    }

    #[tokio::test]
    async fn tasks_end_when_told() {
        let tasks = Tasks::default();
        let stop = tasks.stopping();
        tasks.spawn("patient", async move { stop.cancelled().await });
        tasks.stop(Instant::now() + Duration::from_secs(10)).await;
        assert!(!tasks.failed().is_cancelled());
    }
}
