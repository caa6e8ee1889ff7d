//! Socket.IO over a WebSocket: from the beginning, or as the upgrade of a polling session.

use super::{Connection, packet::Engine, polling::OPEN_WITHIN};
use crate::gateway::{
    Gateway, Handshake,
    driver::{Codec, Inbound, PING_EVERY, PONG_WITHIN, close, drive, readable},
    request::too_large,
    upgrade::{Socket, Upgrade},
};
use axum::response::Response;
use event_router::{CloseReason, Control, Outgoing, Protocol, ReplyTo};
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use serde_json::json;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// How much larger than its payload a packet may be.
const ENVELOPE: usize = 1 << 10;

/// Answers the upgrade of `GET /socket.io/?transport=websocket`.
pub fn upgrade(
    gateway: Arc<Gateway>,
    handshake: Handshake,
    upgrade: Upgrade,
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
    let running = gateway.clone();
    upgrade.run(&gateway, Protocol::SocketIo, largest, None, move |socket| async move {
        let _place = place;
        match sid {
            None => fresh(running, handshake, socket).await,
            Some(sid) => take_over(running, sid, socket).await,
        }
    })
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

/// What it takes to begin is boxed, as below, so that the task has no room for it later.
async fn fresh(gateway: Arc<Gateway>, handshake: Handshake, mut socket: Box<Socket>) {
    if let Some(connection) = Box::pin(open(gateway, handshake, &mut socket)).await {
        run(connection, socket).await;
    }
}

/// Opens the connection, and waits for the first packet: who never connects to the namespace is not kept, and told
/// when the server stops.
async fn open(gateway: Arc<Gateway>, handshake: Handshake, socket: &mut Socket) -> Option<Box<Connection>> {
    let sid = super::polling::new_sid();
    let open = open_packet(&sid, &[], &gateway);
    socket.stream.send(Message::Text(open.into())).await.ok()?;
    let mut connection = Box::new(Connection::new(gateway, handshake));
    let reason = tokio::select! {
        reason = connection.outbox.closing() => Some(reason),
        first = tokio::time::timeout(OPEN_WITHIN, first_packet(socket)) => match first {
            Ok(Some(text)) => match connection.receive(&text).await {
                Inbound::Close(reason) => Some(reason),
                Inbound::Continue | Inbound::Alive => None,
            },
            _ => Some(CloseReason::Gone),
        },
    };
    if let Some(reason) = reason {
        connection.outbox.close(reason);
    }
    Some(connection)
}

async fn first_packet(socket: &mut Socket) -> Option<Utf8Bytes> {
    loop {
        match socket.stream.next().await? {
            Ok(Message::Text(text)) => return Some(text),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            _ => return None,
        }
    }
}

/// Probes the WebSocket and takes the session over from long-polling once the client says so.
async fn take_over(gateway: Arc<Gateway>, sid: String, mut socket: Box<Socket>) {
    match Box::pin(probe(&gateway, &sid, &mut socket)).await {
        Some(connection) => run(connection, socket).await,
        None => close(&mut socket, &CloseReason::Gone).await,
    }
}

/// Answers the client's probe, and takes the session once the client says so.
async fn probe(gateway: &Arc<Gateway>, sid: &str, socket: &mut Socket) -> Option<Box<Connection>> {
    let probing = async {
        loop {
            let text = first_packet(socket).await?;
            match Engine::parse(&text)? {
                Engine::Ping("probe") => {
                    socket.stream.send(Message::Text("3probe".into())).await.ok()?;
                    gateway.polling.release(sid);
                }
                Engine::Upgrade => return Some(()),
                _ => return None,
            }
        }
    };
    tokio::time::timeout(OPEN_WITHIN, probing).await.ok()??;
    gateway.polling.take(sid).await.map(Box::new)
}

async fn run(connection: Box<Connection>, mut socket: Box<Socket>) {
    let outbox = connection.outbox.clone();
    socket.attach(&connection.gateway, &outbox);
    let mut codec = SocketIoCodec { connection };
    let reason = drive(&mut socket, &mut codec, &outbox).await;
    // Socket.IO's clients do not see close codes: they are told by an event, which went out before the close.
    tracing::trace!(?reason, "a socket.io connection ended");
    Box::pin(codec.connection.end()).await;
}

struct SocketIoCodec {
    connection: Box<Connection>,
}

impl Codec for SocketIoCodec {
    fn ping(&self) -> Message {
        Message::Text("2".into())
    }

    fn text<'a>(&'a mut self, text: &'a str) -> BoxFuture<'a, Inbound> {
        Box::pin(self.connection.receive(text))
    }

    fn binary(&mut self) -> Inbound {
        self.connection.attachment()
    }

    fn limit(&self) -> usize {
        self.connection.gateway.limits.message_bytes + ENVELOPE
    }

    fn too_large(&mut self) {
        let problem = too_large(self.connection.gateway.limits.message_bytes);
        self.connection.outbox.control(ReplyTo::Nothing, Control::Failed(problem));
    }

    fn farewell(&self, reason: &CloseReason) -> Vec<Outgoing> {
        super::farewell(reason)
    }
}
