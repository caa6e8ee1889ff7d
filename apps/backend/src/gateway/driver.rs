//! Drives one WebSocket: writes what waits in the outbox, reads what the client sends, and keeps it alive.
//!
//! One task a connection. What waits is written in batches with one flush; while a slow client holds up the flush,
//! the outbox fills and in the end closes the connection.

use super::encode;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use event_router::{CloseReason, Outbox, Outgoing, Protocol};
use futures::{SinkExt as _, future::BoxFuture};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often the client is asked whether it is there.
pub const PING_EVERY: Duration = Duration::from_secs(25);
/// How long it may take to answer.
pub const PONG_WITHIN: Duration = Duration::from_secs(20);
/// How long a close may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes written between two flushes.
const BATCH: usize = 64 << 10;
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
    /// How messages are encoded.
    const PROTOCOL: Protocol;

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
pub async fn drive<C: Codec>(socket: &mut WebSocket, codec: &mut C, outbox: &Arc<Outbox>) -> CloseReason {
    let mut batch = Vec::new();
    let mut asked = false;
    let timer = tokio::time::sleep(PING_EVERY);
    tokio::pin!(timer);
    let reason = loop {
        tokio::select! {
            taken = outbox.take(BATCH, &mut batch) => {
                if let Err(reason) = taken {
                    break reason;
                }
                if let Err(reason) = write::<C>(socket, outbox, &mut batch).await {
                    break reason;
                }
                // What a burst needed is not kept by an idle connection.
                if batch.capacity() > 64 {
                    batch = Vec::new();
                }
            }
            received = socket.recv() => match read(received, codec).await {
                Inbound::Continue => {}
                Inbound::Alive => {
                    asked = false;
                    timer.as_mut().reset(Instant::now() + PING_EVERY);
                }
                Inbound::Close(reason) => {
                    outbox.close(reason.clone());
                    write_rest::<C>(socket, outbox).await;
                    break reason;
                }
            },
            () = &mut timer => {
                if asked || socket.send(codec.ping()).await.is_err() {
                    break CloseReason::Gone;
                }
                asked = true;
                timer.as_mut().reset(Instant::now() + PONG_WITHIN);
            }
        }
    };
    let mut farewell = codec.farewell(&reason);
    let closing = async {
        if write_all::<C>(socket, &mut farewell).await.is_ok() {
            close(socket, &reason).await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_WITHIN, closing).await;
    reason
}

/// Closes in both directions: what the client still sends is read and dropped, for a connection that ends with
/// something unread is reset, and the client may never see why.
pub async fn close(socket: &mut WebSocket, reason: &CloseReason) {
    // Fails where the client has closed already; reading on then writes the answer that it waits for.
    let _ = socket.send(Message::Close(Some(close_frame(reason)))).await;
    let rest = async { while let Some(Ok(_)) = socket.recv().await {} };
    let _ = tokio::time::timeout(CLOSE_WITHIN, rest).await;
}

/// Writes a batch and flushes once. Gives up when the outbox overflows meanwhile, or nothing moves for as long as
/// an answer to a ping may take.
async fn write<C: Codec>(
    socket: &mut WebSocket,
    outbox: &Arc<Outbox>,
    batch: &mut Vec<Outgoing>,
) -> Result<(), CloseReason> {
    tokio::select! {
        biased;
        written = write_all::<C>(socket, batch) => written.map_err(|_| CloseReason::Gone),
        () = outbox.overflowed() => Err(CloseReason::SlowConsumer),
        () = tokio::time::sleep(PING_EVERY + PONG_WITHIN) => Err(CloseReason::Gone),
    }
}

async fn write_all<C: Codec>(socket: &mut WebSocket, batch: &mut Vec<Outgoing>) -> Result<(), axum::Error> {
    for outgoing in batch.drain(..) {
        let Some(bytes) = encode::message(C::PROTOCOL, &outgoing) else { continue };
        // All that is encoded here is text.
        let Ok(text) = Utf8Bytes::try_from(bytes) else { continue };
        socket.feed(Message::Text(text)).await?;
    }
    socket.flush().await
}

/// Writes what still waits when the connection ends by what the client did.
async fn write_rest<C: Codec>(socket: &mut WebSocket, outbox: &Arc<Outbox>) {
    let mut batch = Vec::new();
    while outbox.take(BATCH, &mut batch).await.is_ok() {
        let written = tokio::time::timeout(CLOSE_WITHIN, write::<C>(socket, outbox, &mut batch)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read<C: Codec>(received: Option<Result<Message, axum::Error>>, codec: &mut C) -> Inbound {
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
        Some(Ok(Message::Ping(_))) => Inbound::Continue,
        Some(Ok(Message::Close(_))) | None => Inbound::Close(CloseReason::Gone),
        Some(Err(_)) => Inbound::Close(CloseReason::Gone),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    // The cause's type belongs to the WebSocket library behind axum; its text says what it is.
    let text = error.to_string();
    text.contains("too long") || text.contains("too large") || text.contains("too big")
}

/// What the client is told by a close.
fn close_frame(reason: &CloseReason) -> CloseFrame {
    let (code, reason) = match reason {
        CloseReason::Gone => (1000, String::new()),
        CloseReason::GoingAway => (1001, "server going away: reconnect, elsewhere".to_owned()),
        CloseReason::Policy(rule) => (1008, rule.clone()),
        CloseReason::TokenExpired => (1008, "token expired".to_owned()),
        CloseReason::TooManyMessages => (1013, "too many messages: try again later".to_owned()),
        CloseReason::SlowConsumer => (4000, "slow consumer: reconnect and recover by position".to_owned()),
        CloseReason::Revoked => (4001, "token revoked".to_owned()),
    };
    CloseFrame { code, reason: reason.into() }
}
