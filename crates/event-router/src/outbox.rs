//! The bounded outbox of a connection: what waits to be written to it.
//!
//! Pushing never waits. A connection whose backlog is full is closed as a slow consumer and recovers by position.
//!
//! What waits leaves in one of two ways. A connection with a [`Wire`] is written to by its [`Writer`], directly and
//! without waking the connection's task, which is asked only where the connection takes no more. A connection
//! without one takes by itself.

use crate::{
    outgoing::{CloseReason, Control, Outgoing, ReplyTo},
    writer::Writer,
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// How much may wait for a connection.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Bytes (default 4 MiB).
    pub bytes: usize,
    /// Messages (default 16,384).
    pub messages: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self { bytes: 4 << 20, messages: 16_384 }
    }
}

/// Where an outbox is emptied into without waiting.
pub trait Wire: Send + Sync {
    /// Takes from `outbox` by [`Outbox::take_now`] and writes as much as the connection takes at once. Taking and
    /// writing are one step, so that what is taken by two callers is not written in the wrong order.
    fn flush(&self, outbox: &Outbox) -> Flushed;
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    Empty,
    /// There is more than one turn's worth.
    More,
    /// The connection takes no more at the moment.
    Blocked,
}

/// What the task of a connection with a wire has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attention {
    /// The connection takes no more: wait until it does, then [`Outbox::resume`].
    Blocked,
    /// It is closed: write what is left and end it.
    Closed(CloseReason),
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    waker: Option<Waker>,
    closed: Option<CloseReason>,
    /// The writer has it on its list.
    scheduled: bool,
    /// The connection takes no more; its task resumes.
    blocked: bool,
}

struct Outlet {
    wire: Arc<dyn Wire>,
    writer: Arc<Writer>,
}

/// What waits to be written to one connection.
pub struct Outbox {
    connection: u64,
    limits: OutboxLimits,
    inner: Mutex<Inner>,
    outlet: OnceLock<Outlet>,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

impl Outbox {
    /// An empty outbox of a new connection.
    pub fn new(limits: OutboxLimits) -> Arc<Self> {
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { connection, limits, inner: Mutex::default(), outlet: OnceLock::new() })
    }

    /// A number that no other connection of this process has.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// From now on `writer` empties it into `wire`. A second wire is ignored.
    pub fn attach(self: &Arc<Self>, wire: Arc<dyn Wire>, writer: Arc<Writer>) {
        let _ = self.outlet.set(Outlet { wire, writer });
        let mut inner = self.inner.lock();
        let waits = !inner.queue.is_empty();
        self.schedule(&mut inner, waits);
        drop(inner);
        self.wake_writer();
    }

    /// Adds something to write; answers whether the connection is still open.
    ///
    /// A full backlog closes it: what waits is dropped, for the client recovers it by position.
    pub fn push(self: &Arc<Self>, item: Outgoing) -> bool {
        let open = self.push_quietly(item);
        self.wake_writer();
        open
    }

    /// As [`Outbox::push`], for one who pushes much and wakes the writers when done.
    pub fn push_quietly(self: &Arc<Self>, item: Outgoing) -> bool {
        let size = item.size();
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return false;
        }
        // A single message is always let in, so that a page of recovery fits whatever the limit.
        let full = inner.queue.len() >= self.limits.messages || inner.bytes + size > self.limits.bytes;
        if full && !inner.queue.is_empty() {
            inner.queue = VecDeque::new();
            inner.bytes = 0;
            inner.closed = Some(CloseReason::SlowConsumer);
            wake(inner);
            return false;
        }
        inner.bytes += size;
        inner.queue.push_back(item);
        if self.outlet.get().is_some() {
            self.schedule(&mut inner, true);
        } else {
            wake(inner);
        }
        true
    }

    /// Puts it on its writer's list, unless it is there or its own task will resume.
    fn schedule(self: &Arc<Self>, inner: &mut Inner, waits: bool) {
        if waits
            && !inner.scheduled
            && !inner.blocked
            && let Some(outlet) = self.outlet.get()
        {
            inner.scheduled = true;
            outlet.writer.list(self.clone());
        }
    }

    fn wake_writer(&self) {
        if let Some(outlet) = self.outlet.get() {
            outlet.writer.wake();
        }
    }

    /// Writes what waits, as far as that needs no waiting. Answers whether there is more for another turn.
    pub fn flush(&self) -> Flushed {
        let Some(outlet) = self.outlet.get() else { return Flushed::Empty };
        self.inner.lock().scheduled = false;
        let flushed = outlet.wire.flush(self);
        if flushed == Flushed::Blocked {
            let mut inner = self.inner.lock();
            inner.blocked = true;
            wake(inner);
        }
        flushed
    }

    /// The connection takes again: writes on. For the connection's own task.
    pub fn resume(self: &Arc<Self>) {
        self.inner.lock().blocked = false;
        if self.flush() == Flushed::More {
            self.again();
        }
    }

    /// Another turn of its writer.
    pub(crate) fn again(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        self.schedule(&mut inner, true);
        drop(inner);
        self.wake_writer();
    }

    /// Says something to this connection only.
    pub fn control(self: &Arc<Self>, to: ReplyTo, control: Control) -> bool {
        self.push(Outgoing::Control(to, Box::new(control)))
    }

    /// Closes the connection once what waits has been written; the first reason counts.
    pub fn close(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(reason);
        wake(inner);
    }

    /// Waits until the backlog overflows. For the one task that writes, while it cannot take.
    pub async fn overflowed(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if inner.closed == Some(CloseReason::SlowConsumer) {
                return Poll::Ready(());
            }
            inner.listen(cx);
            Poll::Pending
        })
        .await;
    }

    /// Waits until the task of a connection with a wire is needed. Cancel-safe.
    pub async fn attention(&self) -> Attention {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if let Some(reason) = &inner.closed {
                return Poll::Ready(Attention::Closed(reason.clone()));
            }
            if inner.blocked {
                return Poll::Ready(Attention::Blocked);
            }
            inner.listen(cx);
            Poll::Pending
        })
        .await
    }

    /// Waits until it is closed, and answers why. Cancel-safe.
    pub async fn closing(&self) -> CloseReason {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if let Some(reason) = &inner.closed {
                return Poll::Ready(reason.clone());
            }
            inner.listen(cx);
            Poll::Pending
        })
        .await
    }

    /// The reason why it is closed, if it is.
    pub fn closed(&self) -> Option<CloseReason> {
        self.inner.lock().closed.clone()
    }

    /// Takes what waits, at most about `bytes`, into `batch`; answers whether more is left.
    pub fn take_now(&self, bytes: usize, batch: &mut Vec<Outgoing>) -> bool {
        self.inner.lock().take(bytes, batch)
    }

    /// Takes what waits, at most about `bytes`, into `batch`. Ready with the reason when the outbox is closed and
    /// empty. Cancel-safe: what is not taken stays.
    pub fn poll_take(
        &self,
        cx: &mut Context<'_>,
        bytes: usize,
        batch: &mut Vec<Outgoing>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut inner = self.inner.lock();
        inner.take(bytes, batch);
        if !batch.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &inner.closed {
            return Poll::Ready(Err(reason.clone()));
        }
        inner.listen(cx);
        Poll::Pending
    }

    /// As [`Outbox::poll_take`], as a future.
    ///
    /// # Errors
    /// The reason, when the outbox is closed and empty.
    pub async fn take(&self, bytes: usize, batch: &mut Vec<Outgoing>) -> Result<(), CloseReason> {
        std::future::poll_fn(|cx| self.poll_take(cx, bytes, batch)).await
    }
}

impl Inner {
    fn take(&mut self, bytes: usize, batch: &mut Vec<Outgoing>) -> bool {
        let mut taken = 0;
        while taken < bytes {
            let Some(item) = self.queue.pop_front() else { break };
            taken += item.size();
            batch.push(item);
        }
        self.bytes -= taken.min(self.bytes);
        // What a burst needed is not kept by an idle connection.
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        !self.queue.is_empty()
    }

    fn listen(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

/// Wakes the connection's task, outside the lock.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> (ReplyTo, Control) {
        (ReplyTo::Nothing, Control::Done(text.to_owned()))
    }

    #[tokio::test]
    async fn a_full_backlog_closes_the_connection() {
        let outbox = Outbox::new(OutboxLimits { bytes: 1 << 20, messages: 2 });
        let push = |text| {
            let (to, control) = note(text);
            outbox.control(to, control)
        };
        assert!(push("a") && push("b"));
        assert!(!push("c"), "the third is one too many");
        assert!(!push("d"));
        let mut batch = Vec::new();
        assert_eq!(outbox.take(1 << 20, &mut batch).await, Err(CloseReason::SlowConsumer));
        assert!(batch.is_empty(), "a slow consumer recovers by position instead");
    }

    #[tokio::test]
    async fn what_waits_is_written_before_the_close() {
        let outbox = Outbox::new(OutboxLimits::default());
        let (to, control) = note("bye");
        outbox.control(to, control);
        outbox.close(CloseReason::GoingAway);
        outbox.close(CloseReason::Revoked);
        let mut batch = Vec::new();
        assert_eq!(outbox.take(1, &mut batch).await, Ok(()));
        assert_eq!(batch.len(), 1);
        batch.clear();
        assert_eq!(outbox.take(1, &mut batch).await, Err(CloseReason::GoingAway));
    }
}
