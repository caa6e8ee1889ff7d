//! Drives one WebSocket: reads what the client sends, keeps the connection alive, and waits with what it does not
//! take.
//!
//! One task a connection. What is delivered is written by the connection's writer, without this task; while a slow
//! client holds it up, the outbox fills and in the end closes the connection.

use super::{upgrade::Socket, wire::SocketWire};
use event_router::{Attention, CloseReason, Flushed, Outbox, Outgoing};
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message, error::CapacityError, protocol::CloseFrame};

/// How often the client is asked whether it is there.
pub const PING_EVERY: Duration = Duration::from_secs(25);
/// How long it may take to answer.
pub const PONG_WITHIN: Duration = Duration::from_secs(20);
/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may take nothing of what waits for it.
const STUCK_AFTER: Duration = Duration::from_secs(45);
/// How many times as large as allowed a message may be and still be read, so that its sender can be told.
const READABLE: usize = 16;

/// The largest message that is read where `limit` bytes are allowed.
pub fn readable(limit: usize) -> usize {
    limit.saturating_mul(READABLE)
}

/// What a codec makes of a client's message.
pub enum Inbound {
    /// Go on.
    Continue,
    /// The client answered a ping.
    Alive,
    /// End the connection.
    Close(CloseReason),
}

/// What differs between transports over a WebSocket.
pub trait Codec: Send {
    /// What asks the client whether it is there.
    fn ping(&self) -> Message;

    /// A text message came.
    fn text<'a>(&'a mut self, text: &'a str) -> BoxFuture<'a, Inbound>;

    /// A binary message came.
    fn binary(&mut self) -> Inbound;

    /// The most bytes of a message.
    fn limit(&self) -> usize;

    /// A message over the limit came.
    fn too_large(&mut self);

    /// What is written before the close, where the transport has no close codes of its own.
    fn farewell(&self, _reason: &CloseReason) -> Vec<Outgoing> {
        Vec::new()
    }
}

/// Runs the connection until either side ends it; answers why.
pub async fn drive<C: Codec>(socket: &mut Socket, codec: &mut C, outbox: &Arc<Outbox>) -> CloseReason {
    let mut asked = false;
    let mut blocked = false;
    let timer = tokio::time::sleep(PING_EVERY);
    tokio::pin!(timer);
    let reason = loop {
        tokio::select! {
            attention = outbox.attention(), if !blocked => match attention {
                Attention::Closed(reason) => break reason,
                Attention::Blocked => {
                    blocked = true;
                    timer.as_mut().reset(Instant::now() + STUCK_AFTER);
                }
            },
            reason = overflowed(outbox), if blocked => break reason,
            drained = socket.wire.drain(), if blocked => match drained {
                Err(_) => break CloseReason::Gone,
                Ok(false) => timer.as_mut().reset(Instant::now() + STUCK_AFTER),
                Ok(true) => {
                    (blocked, asked) = (false, false);
                    timer.as_mut().reset(Instant::now() + PING_EVERY);
                    outbox.resume();
                }
            },
            received = socket.stream.next() => match read(received, codec).await {
                Inbound::Continue => {}
                Inbound::Alive => {
                    asked = false;
                    timer.as_mut().reset(Instant::now() + if blocked { STUCK_AFTER } else { PING_EVERY });
                }
                Inbound::Close(reason) => {
                    outbox.close(reason.clone());
                    break reason;
                }
            },
            () = &mut timer => {
                if asked || blocked || socket.stream.send(codec.ping()).await.is_err() {
                    break CloseReason::Gone;
                }
                asked = true;
                timer.as_mut().reset(Instant::now() + PONG_WITHIN);
            }
        }
    };
    let farewell = codec.farewell(&reason);
    let closing = async {
        if reason != CloseReason::SlowConsumer {
            write_rest(&socket.wire, outbox).await;
        }
        socket.wire.write(&farewell);
        close(socket, &reason).await;
    };
    let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
    socket.wire.end();
    reason
}

/// Waits until the backlog of a blocked connection overflows.
async fn overflowed(outbox: &Outbox) -> CloseReason {
    outbox.overflowed().await;
    CloseReason::SlowConsumer
}

/// Closes in both directions: what the client still sends is read and dropped, for a connection that ends with
/// something unread is reset, and the client may never see why.
pub async fn close(socket: &mut Socket, reason: &CloseReason) {
    // Fails where the client has closed already; reading on then writes the answer that it waits for.
    let _ = socket.stream.send(Message::Close(Some(close_frame(reason)))).await;
    let rest = async { while let Some(Ok(_)) = socket.stream.next().await {} };
    let _ = tokio::time::timeout(CLOSE_WITHIN, rest).await;
}

/// Writes what still waits when the connection ends.
async fn write_rest(wire: &SocketWire, outbox: &Arc<Outbox>) {
    loop {
        match outbox.flush() {
            Flushed::Empty => return,
            Flushed::More => {}
            Flushed::Blocked => match wire.drain().await {
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

async fn read<C: Codec>(received: Option<Result<Message, Error>>, codec: &mut C) -> Inbound {
    let limit = codec.limit();
    let mut too_large = || {
        codec.too_large();
        Inbound::Close(CloseReason::Policy("a message over the limit".to_owned()))
    };
    match received {
        Some(Ok(Message::Text(text))) if text.len() > limit => too_large(),
        Some(Ok(Message::Binary(bytes))) if bytes.len() > limit => too_large(),
        Some(Err(error)) if is_too_large(&error) => too_large(),
        Some(Ok(Message::Text(text))) => codec.text(&text).await,
        Some(Ok(Message::Binary(_))) => codec.binary(),
        Some(Ok(Message::Pong(_))) => Inbound::Alive,
        Some(Ok(Message::Ping(_) | Message::Frame(_))) => Inbound::Continue,
        Some(Ok(Message::Close(_)) | Err(_)) | None => Inbound::Close(CloseReason::Gone),
    }
}

fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::Capacity(CapacityError::MessageTooLong { .. }))
}

/// What the client is told by a close.
fn close_frame(reason: &CloseReason) -> CloseFrame {
    let (code, reason): (u16, String) = match reason {
        CloseReason::Gone => (1000, String::new()),
        CloseReason::GoingAway => (1001, "server going away: reconnect, elsewhere".to_owned()),
        CloseReason::Policy(rule) => (1008, rule.clone()),
        CloseReason::TokenExpired => (1008, "token expired".to_owned()),
        CloseReason::TooManyMessages => (1013, "too many messages: try again later".to_owned()),
        CloseReason::SlowConsumer => (4000, "slow consumer: reconnect and recover by position".to_owned()),
        CloseReason::Revoked => (4001, "token revoked".to_owned()),
    };
    CloseFrame { code: code.into(), reason: reason.into() }
}
