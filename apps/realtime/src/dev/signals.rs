//! Ctrl-C and SIGTERM, listened for before anything is started.

use crate::exit::{Failure, Outcome};
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a process in order.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> Outcome<Self> {
        let on = |kind| signal(kind).context("cannot wait for signals").map_err(Failure::from);
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. Cancelling loses none.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
