//! Socket.IO over a WebSocket: from the beginning, or as the upgrade of a polling session.

use super::{Connection, packet::Engine, polling::OPEN_WITHIN};
use crate::gateway::{
    Gateway, Handshake,
    driver::{Codec, Inbound, PING_EVERY, PONG_WITHIN, close, drive, readable},
};
use axum::{
    extract::{
        WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::{IntoResponse as _, Response},
};
use event_router::{CloseReason, Control, Outgoing, Protocol, ReplyTo};
use futures::future::BoxFuture;
use serde_json::json;
use shared_types::{ErrorKind, Problem};
use std::sync::Arc;

/// How much larger than its payload a packet may be.
const ENVELOPE: usize = 1 << 10;

/// Answers the upgrade of `GET /socket.io/?transport=websocket`.
pub fn upgrade(
    gateway: Arc<Gateway>,
    handshake: Handshake,
    upgrade: WebSocketUpgrade,
    sid: Option<String>,
) -> Response {
    let place = match gateway.registry.place(handshake.address) {
        Ok(place) => place,
        Err(problem) => return gateway.refuse(&problem),
    };
    if let Some(sid) = &sid
        && !gateway.polling.knows(sid)
    {
        return super::refuse(1, "Session ID unknown");
    }
    let largest = readable(gateway.limits.message_bytes + ENVELOPE);
    upgrade
        .read_buffer_size(1 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(largest)
        .max_frame_size(largest)
        .on_upgrade(move |socket| async move {
            let _place = place;
            match sid {
                None => fresh(gateway, handshake, socket).await,
                Some(sid) => take_over(&gateway, &sid, socket).await,
            }
        })
        .into_response()
}

/// The first packet of a connection.
pub fn open_packet(sid: &str, upgrades: &[&str], gateway: &Gateway) -> String {
    let open = json!({
        "sid": sid,
        "upgrades": upgrades,
        "pingInterval": PING_EVERY.as_millis() as u64,
        "pingTimeout": PONG_WITHIN.as_millis() as u64,
        "maxPayload": gateway.limits.message_bytes + ENVELOPE,
    });
    format!("0{open}")
}

async fn fresh(gateway: Arc<Gateway>, handshake: Handshake, mut socket: WebSocket) {
    let sid = super::polling::new_sid();
    let open = open_packet(&sid, &[], &gateway);
    if socket.send(Message::Text(open.into())).await.is_err() {
        return;
    }
    let mut connection = Connection::new(gateway, handshake);
    // Who never connects to the namespace is not kept.
    let reason = match tokio::time::timeout(OPEN_WITHIN, first_packet(&mut socket)).await {
        Ok(Some(text)) => match connection.receive(&text).await {
            Inbound::Close(reason) => Some(reason),
            Inbound::Continue | Inbound::Alive => None,
        },
        _ => Some(CloseReason::Gone),
    };
    if let Some(reason) = reason {
        connection.outbox.close(reason);
    }
    run(connection, socket).await;
}

async fn first_packet(socket: &mut WebSocket) -> Option<axum::extract::ws::Utf8Bytes> {
    loop {
        match socket.recv().await? {
            Ok(Message::Text(text)) => return Some(text),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            _ => return None,
        }
    }
}

/// Probes the WebSocket and takes the session over from long-polling once the client says so.
async fn take_over(gateway: &Arc<Gateway>, sid: &str, mut socket: WebSocket) {
    let probing = async {
        loop {
            let text = first_packet(&mut socket).await?;
            match Engine::parse(&text)? {
                Engine::Ping("probe") => {
                    socket.send(Message::Text("3probe".into())).await.ok()?;
                    gateway.polling.release(sid);
                }
                Engine::Upgrade => return Some(()),
                _ => return None,
            }
        }
    };
    let upgraded = matches!(tokio::time::timeout(OPEN_WITHIN, probing).await, Ok(Some(())));
    let connection = if upgraded { gateway.polling.take(sid).await } else { None };
    match connection {
        Some(connection) => run(connection, socket).await,
        None => close(&mut socket, &CloseReason::Gone).await,
    }
}

async fn run(connection: Connection, mut socket: WebSocket) {
    let outbox = connection.outbox.clone();
    let mut codec = SocketIoCodec { connection };
    let reason = drive(&mut socket, &mut codec, &outbox).await;
    // Socket.IO's clients do not see close codes: they are told by an event, which went out before the close.
    tracing::trace!(?reason, "a socket.io connection ended");
    codec.connection.end().await;
}

struct SocketIoCodec {
    connection: Connection,
}

impl Codec for SocketIoCodec {
    const PROTOCOL: Protocol = Protocol::SocketIo;

    fn ping(&self) -> Message {
        Message::Text("2".into())
    }

    fn text<'a>(&'a mut self, text: &'a str) -> BoxFuture<'a, Inbound> {
        Box::pin(self.connection.receive(text))
    }

    fn binary(&mut self) -> Inbound {
        self.connection.malformed(Problem::invalid("BINARY_NOT_SUPPORTED", "packets must be text"))
    }

    fn limit(&self) -> usize {
        self.connection.gateway.limits.message_bytes + ENVELOPE
    }

    fn too_large(&mut self) {
        let problem =
            Problem::new(ErrorKind::TooLarge, "LIMIT_EXCEEDED", "a message is larger than the limit");
        self.connection.outbox.control(ReplyTo::Nothing, Control::Failed(problem));
    }

    fn farewell(&self, reason: &CloseReason) -> Vec<Outgoing> {
        super::farewell(reason)
    }
}
