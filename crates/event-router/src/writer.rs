//! Writers empty outboxes into their wires: one task a core, each for its share of the connections.
//!
//! Waking one task for many connections, instead of the task of each, is what makes a delivery cost little more than
//! the system call that writes it. A writer's list is bounded by its connections: each is on it at most once.

use crate::outbox::{Flushed, Outbox};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Connections written to in a row, after which other tasks get their turn: a fraction of a millisecond.
const TURN: usize = 32;
/// Flushes of one connection in a row: enough for a whole backlog, so that one that reads fast is not taken for slow.
const FLUSHES: usize = 64;

/// One writer.
#[derive(Default)]
pub struct Writer {
    listed: Mutex<Vec<Arc<Outbox>>>,
    /// Whether somebody was listed since it was last woken.
    waits: AtomicBool,
    notify: Notify,
}

impl Writer {
    /// Puts an outbox on the list, without waking the writer.
    pub(crate) fn list(&self, outbox: Arc<Outbox>) {
        self.listed.lock().push(outbox);
        self.waits.store(true, Ordering::Release);
    }

    /// Wakes it, if there is something to do.
    pub fn wake(&self) {
        if self.waits.load(Ordering::Acquire) && self.waits.swap(false, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Writes until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut outboxes = Vec::new();
        let mut turn = 0;
        loop {
            std::mem::swap(&mut *self.listed.lock(), &mut outboxes);
            if outboxes.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.notify.notified() => continue,
                }
            }
            for outbox in outboxes.drain(..) {
                if (0..FLUSHES).all(|_| outbox.flush() == Flushed::More) {
                    outbox.again();
                }
                turn = (turn + 1) % TURN;
                if turn == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}
