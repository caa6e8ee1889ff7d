//! The bounded outbox of a connection: what waits to be written to it.
//!
//! Pushing never waits. A connection whose backlog is full is closed as a slow consumer and recovers by position.

use crate::live_event::LiveEvent;
use parking_lot::Mutex;
use shared_types::{Position, Problem, ReturnMode, SubscriptionId, TopicName};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
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

/// Why the server ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client went away or said goodbye.
    Gone,
    /// It could not keep up.
    SlowConsumer,
    /// The server is stopping: reconnect, elsewhere.
    GoingAway,
    /// Its token expired and was not renewed.
    TokenExpired,
    /// Its token was revoked.
    Revoked,
    /// It broke the protocol.
    Policy(String),
    /// It sent more than the rate allows, for too long.
    TooManyMessages,
}

/// To which request a reply belongs, in the connection's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// The client asked for no reply.
    Nothing,
    /// The client's `ref`, as JSON text.
    Ref(Box<str>),
    /// The number of a Socket.IO acknowledgement.
    Ack(u64),
}

/// The answer to a subscribe.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// The subscription.
    pub id: SubscriptionId,
    /// Its topic.
    pub topic: TopicName,
    /// The position behind which live delivery begins, or from which to ask for more.
    pub position: Position,
    /// Whether everything since the given position is in `events`, or was before.
    pub recovered: bool,
    /// The recovered events, which passed the filter.
    pub events: Vec<Arc<LiveEvent>>,
    /// How they are projected.
    pub mode: ReturnMode,
    /// Whether there are more, so that delivery is not live yet.
    pub more: bool,
}

/// What is said to one connection only.
#[derive(Clone, Debug)]
pub enum Control {
    /// A subscription is live, or a page of its recovery.
    Subscribed(Subscribed),
    /// A request was done; the members of the result as JSON text without braces, or empty.
    Done(String),
    /// A request failed, or something else did.
    Failed(Problem),
    /// The server ended a subscription.
    Ended {
        /// The subscription.
        id: SubscriptionId,
        /// Its topic.
        topic: TopicName,
        /// Why.
        problem: Problem,
    },
    /// Where a subscription stands.
    Position {
        /// The subscription.
        id: SubscriptionId,
        /// Its topic.
        topic: TopicName,
        /// The topic's position.
        position: Position,
        /// Whether events were lost for good: reload state.
        gap: bool,
    },
    /// The answer to a ping.
    Pong,
    /// The connection is let in.
    Welcome {
        /// Its id, by which others reach it.
        socket_id: String,
        /// Whom it belongs to.
        client_id: String,
        /// When its token expires, in Unix milliseconds.
        expires_at_ms: i64,
    },
    /// The connection is not let in.
    Refused(Problem),
    /// It asked for a namespace, by this name, that does not exist.
    NoNamespace(String, Problem),
}

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An event.
    Event {
        /// The event, shared.
        event: Arc<LiveEvent>,
        /// How it is projected.
        mode: ReturnMode,
        /// The subscriptions that matched, where the connection has several on the topic.
        subscriptions: Option<Box<[SubscriptionId]>>,
    },
    /// Something for this connection only.
    Control(ReplyTo, Box<Control>),
    /// A packet of the transport itself, as it is.
    Packet(&'static str),
}

impl Outgoing {
    /// Its size as it counts towards the backlog, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Event { event, .. } => event.event().size(),
            Self::Control(_, control) => match &**control {
                Control::Subscribed(subscribed) => {
                    256 + subscribed.events.iter().map(|event| event.event().size()).sum::<usize>()
                }
                Control::Done(text) => 64 + text.len(),
                _ => 256,
            },
            Self::Packet(text) => text.len(),
        }
    }
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    waker: Option<Waker>,
    closed: Option<CloseReason>,
}

/// What waits to be written to one connection.
pub struct Outbox {
    connection: u64,
    limits: OutboxLimits,
    inner: Mutex<Inner>,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

impl Outbox {
    /// An empty outbox of a new connection.
    pub fn new(limits: OutboxLimits) -> Arc<Self> {
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { connection, limits, inner: Mutex::default() })
    }

    /// A number that no other connection of this process has.
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Adds something to write; answers whether the connection is still open.
    ///
    /// A full backlog closes it: what waits is dropped, for the client recovers it by position.
    pub fn push(&self, item: Outgoing) -> bool {
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
        } else {
            inner.bytes += size;
            inner.queue.push_back(item);
        }
        let open = inner.closed.is_none();
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        open
    }

    /// Says something to this connection only.
    pub fn control(&self, to: ReplyTo, control: Control) -> bool {
        self.push(Outgoing::Control(to, Box::new(control)))
    }

    /// Closes the connection once what waits has been written; the first reason counts.
    pub fn close(&self, reason: CloseReason) {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(reason);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until the backlog overflows. For the one task that writes, while it cannot take.
    pub async fn overflowed(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if inner.closed == Some(CloseReason::SlowConsumer) {
                return Poll::Ready(());
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The reason why it is closed, if it is.
    pub fn closed(&self) -> Option<CloseReason> {
        self.inner.lock().closed.clone()
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
        let mut taken = 0;
        while taken < bytes {
            let Some(item) = inner.queue.pop_front() else { break };
            taken += item.size();
            batch.push(item);
        }
        if !batch.is_empty() {
            inner.bytes -= taken.min(inner.bytes);
            if inner.queue.is_empty() && inner.queue.capacity() > 64 {
                inner.queue = VecDeque::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &inner.closed {
            return Poll::Ready(Err(reason.clone()));
        }
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
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
