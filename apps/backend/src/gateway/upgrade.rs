//! The WebSocket handshake (RFC 6455, 4.2), and the connection that it leads to.
//!
//! Done here and not by axum because deliveries are written to the bare connection (`wire`), which axum's WebSocket
//! does not give away.

use super::{
    Gateway,
    wire::{Shared, SocketWire},
};
use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use event_router::{Outbox, Protocol};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade::downcast};
use shared_types::Problem;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role, protocol::WebSocketConfig},
};

/// Bytes read at once: clients say little.
const READ_BUFFER: usize = 1 << 10;
/// Bytes that the library keeps of what it writes, which are answers to pings and the close.
const WRITE_BUFFER: usize = 4 << 10;

/// A request for a WebSocket.
pub struct Upgrade {
    accept: String,
    on_upgrade: OnUpgrade,
}

impl Upgrade {
    /// Reads the handshake.
    ///
    /// # Errors
    /// `NOT_A_WEBSOCKET`, naming the rule that it breaks.
    pub fn read(parts: &mut Parts) -> Result<Self, Problem> {
        let refuse =
            |rule: &str| Problem::invalid("NOT_A_WEBSOCKET", format!("a WebSocket handshake {rule}"));
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(refuse("is a GET over HTTP/1.1"));
        }
        if !names(&parts.headers, header::CONNECTION, "upgrade")
            || !names(&parts.headers, header::UPGRADE, "websocket")
        {
            return Err(refuse("has the headers Connection: Upgrade and Upgrade: websocket"));
        }
        if parts.headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(refuse("is of version 13"));
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| refuse("has a Sec-WebSocket-Key"))?;
        let accept = derive_accept_key(key.as_bytes());
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let on_upgrade = on_upgrade.ok_or_else(|| refuse("is not possible on this connection"))?;
        Ok(Self { accept, on_upgrade })
    }

    /// Answers the handshake, naming `subprotocol`, and runs the connection afterwards with messages of at most
    /// `largest` bytes.
    pub fn run<F: Future<Output = ()> + Send>(
        self,
        gateway: &Arc<Gateway>,
        protocol: Protocol,
        largest: usize,
        subprotocol: Option<HeaderValue>,
        connection: impl FnOnce(Box<Socket>) -> F + Send + 'static,
    ) -> Response {
        let on_upgrade = self.on_upgrade;
        gateway.tasks.spawn(async move {
            match on_upgrade.await.map(|upgraded| Socket::new(upgraded, protocol, largest)) {
                Ok(Some(socket)) => connection(socket.await).await,
                Ok(None) => tracing::error!("an upgraded connection is not a TCP connection"),
                Err(error) => tracing::debug!(%error, "a connection ended before its upgrade"),
            }
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("Upgrade")),
            (header::UPGRADE, HeaderValue::from_static("websocket")),
        ];
        let mut response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(subprotocol) = subprotocol {
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        response
    }
}

/// Whether a header's list holds `name`, in whatever case.
fn names(headers: &HeaderMap, header: header::HeaderName, name: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(name))
}

/// An open WebSocket: read through the library, written to through its wire.
pub struct Socket {
    /// The library's side.
    pub stream: WebSocketStream<Shared>,
    /// Where frames are written.
    pub wire: Arc<SocketWire>,
}

impl Socket {
    /// `None` where the connection is none of ours, which `axum::serve` on a TCP listener does not make.
    fn new(
        upgraded: Upgraded,
        protocol: Protocol,
        largest: usize,
    ) -> Option<impl Future<Output = Box<Self>> + Send> {
        let parts = downcast::<TokioIo<TcpStream>>(upgraded).ok()?;
        let stream = Arc::new(parts.io.into_inner());
        let wire = SocketWire::new(stream.clone(), protocol);
        let shared = Shared::new(stream, wire.clone());
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest));
        let read = parts.read_buf.to_vec();
        Some(async move {
            let stream = WebSocketStream::from_partially_read(shared, read, Role::Server, Some(config)).await;
            // What a task holds across its awaits is in it once for each function that it was handed through.
            Box::new(Self { stream, wire })
        })
    }

    /// From now on what is pushed into `outbox` is written to this connection.
    pub fn attach(&self, gateway: &Gateway, outbox: &Arc<Outbox>) {
        outbox.attach(self.wire.clone(), gateway.hub.writer(outbox.connection()));
    }
}
