//! Ending servers and waiting for them, by their process id and `postmaster.pid`.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::{Doing, LocalPostgresError};
use crate::pidfile;
use crate::process::{children, is_alive, send};

/// How often the state of a process or file that cannot notify us is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a fast shutdown may take: it ends with a checkpoint.
pub(crate) const FAST_SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// How long an immediate shutdown may take.
pub(crate) const IMMEDIATE_SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Ends a server that an earlier process left in `cluster`, and removes a stale `postmaster.pid`.
///
/// Only for the holder of the directory's lock: then whatever runs there has lost its owner.
pub(crate) async fn clear_leftover(cluster: &Path) -> Result<(), LocalPostgresError> {
    if let Some(server) = pidfile::running(cluster) {
        tracing::warn!(process.pid = server.pid, "ending the postgres server of an earlier run");
        end_leftover(server.pid).await?;
    }
    let file = pidfile::path(cluster);
    if file.exists() {
        std::fs::remove_file(&file).doing(|| format!("remove {}", file.display()))?;
    }
    Ok(())
}

async fn end_leftover(pid: i32) -> Result<(), LocalPostgresError> {
    let backends = children(pid);
    let steps = [
        (Signal::INT, FAST_SHUTDOWN_LIMIT),
        (Signal::QUIT, IMMEDIATE_SHUTDOWN_LIMIT),
        (Signal::KILL, IMMEDIATE_SHUTDOWN_LIMIT),
    ];
    for (signal, limit) in steps {
        send(pid, signal);
        if until(limit, || !is_alive(pid)).await {
            // Backends of a killed server notice within moments; a new one would refuse their memory.
            kill_all(&backends).await;
            return Ok(());
        }
    }
    Err(LocalPostgresError::Leftover(pid))
}

/// Ends what is left of a server's own processes, and waits for it.
pub(crate) async fn kill_all(backends: &[i32]) {
    for pid in backends.iter().filter(|pid| is_alive(**pid)) {
        send(*pid, Signal::KILL);
    }
    until(IMMEDIATE_SHUTDOWN_LIMIT, || !backends.iter().any(|pid| is_alive(*pid))).await;
}

/// Waits until `condition` holds, at most `limit`; whether it came to hold.
pub(crate) async fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
