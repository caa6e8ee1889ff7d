//! A service within the test's own process, which ends as a process would.

use std::{future::Future, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A running service.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts what `run` makes of the token that tells it to stop.
    pub fn start<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(run(stop.clone())), stop }
    }

    /// Stops it as a process does that is told to.
    ///
    /// # Panics
    /// Where it fails, or does not end in time.
    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("it stops in time").expect("it does not fail");
    }

    /// Ends it as a process does that is killed: nothing is finished or handed back.
    ///
    /// # Panics
    /// Where it had ended by itself.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err(), "it had ended already");
    }
}

/// Waits for a state.
///
/// # Panics
/// Where it does not come about within [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never {what}");
        sleep(LOOK).await;
    }
}
