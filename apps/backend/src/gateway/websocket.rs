//! The plain WebSocket gateway, path `/ws`: one JSON object a text frame.

use super::{
    Gateway, Handshake,
    driver::{Codec, Inbound, drive, readable},
    fields::Fields,
    request::{Request, too_large},
    session::Session,
    upgrade::{Socket, Upgrade},
};
use auth::Identity;
use axum::{
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use event_router::{CloseReason, Control, Outbox, Protocol, ReplyTo};
use futures::future::BoxFuture;
use metrics::Transport;
use shared_types::Problem;
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;

/// The subprotocol that a browser names beside `token.<jwt>`.
const SUBPROTOCOL: &str = "realtime.v1";
/// Malformed frames in a row that end the connection.
const MALFORMED: u32 = 3;

/// `GET /ws`: refused with 401 before the upgrade.
pub async fn upgrade(
    State(gateway): State<Arc<Gateway>>,
    handshake: Handshake,
    request: HttpRequest,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match Upgrade::read(&mut parts) {
        Ok(upgrade) => upgrade,
        Err(problem) => return gateway.refuse(&problem),
    };
    let headers = parts.headers;
    let token = handshake.token.clone().or_else(|| subprotocol_token(&headers));
    let admitted = gateway.admit(token.as_deref(), &handshake).and_then(|identity| {
        let place = gateway.registry.place(handshake.address)?;
        Ok((identity, place))
    });
    let (identity, place) = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => return gateway.refuse(&problem),
    };
    let largest = readable(gateway.limits.message_bytes);
    let subprotocol = subprotocols(&headers).any(|name| name == SUBPROTOCOL);
    let subprotocol = subprotocol.then(|| HeaderValue::from_static(SUBPROTOCOL));
    let running = gateway.clone();
    upgrade.run(&gateway, Protocol::WebSocket, largest, subprotocol, move |socket| async move {
        let _place = place;
        run(running, identity, handshake, socket).await;
    })
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn subprotocol_token(headers: &HeaderMap) -> Option<String> {
    subprotocols(headers).find_map(|name| name.strip_prefix("token.").map(str::to_owned))
}

async fn run(gateway: Arc<Gateway>, identity: Arc<Identity>, handshake: Handshake, mut socket: Box<Socket>) {
    let outbox = Outbox::new(gateway.limits.outbox);
    socket.attach(&gateway, &outbox);
    let session = gateway.session(Transport::WebSocket, &handshake, outbox.clone(), identity).await;
    drop(handshake);
    outbox.control(ReplyTo::Nothing, gateway.welcome(session.connection()));
    let limit = session.limits().message_bytes;
    let mut codec = PlainCodec { session, limit, malformed: 0 };
    drive(&mut socket, &mut codec, &outbox).await;
    // Boxed, for it needs much, and the connection's task would have that room for all its life.
    Box::pin(codec.session.end()).await;
}

struct PlainCodec {
    session: Session,
    /// Bytes of a frame.
    limit: usize,
    malformed: u32,
}

impl PlainCodec {
    /// Answers a frame that could not be read; the third in a row ends the connection.
    fn malformed(&mut self, to: ReplyTo, problem: Problem) -> Inbound {
        self.session.fail(to, problem);
        self.malformed += 1;
        if self.malformed >= MALFORMED {
            return Inbound::Close(CloseReason::Policy("three malformed frames in a row".to_owned()));
        }
        Inbound::Continue
    }

    async fn frame(&mut self, text: &str) -> Inbound {
        let mut fields = match Fields::parse(text) {
            Ok(fields) => fields,
            Err(problem) => return self.malformed(ReplyTo::Nothing, problem),
        };
        let to = match fields.take("ref").map(|raw| raw.get()) {
            None => ReplyTo::Nothing,
            Some(text) if text.starts_with(['{', '[']) || text.len() > 256 => {
                let rule = "must be a scalar of at most 256 bytes";
                return self.malformed(ReplyTo::Nothing, Problem::field("ref", rule));
            }
            Some(text) => ReplyTo::Ref(text.into()),
        };
        let name = match fields.required_text("type") {
            Ok(name) => name,
            Err(problem) => return self.malformed(to, problem),
        };
        self.malformed = 0;
        if self.session.admit(&to) {
            match Request::read(&name, fields, "eventType") {
                Ok(request) => self.session.handle(request, to).await,
                Err(problem) => self.session.fail(to, problem),
            }
        }
        Inbound::Continue
    }
}

impl Codec for PlainCodec {
    fn ping(&self) -> Message {
        Message::Ping(bytes::Bytes::new())
    }

    fn text<'a>(&'a mut self, text: &'a str) -> BoxFuture<'a, Inbound> {
        Box::pin(self.frame(text))
    }

    fn binary(&mut self) -> Inbound {
        self.malformed(ReplyTo::Nothing, Problem::invalid("BINARY_NOT_SUPPORTED", "frames must be text"))
    }

    fn limit(&self) -> usize {
        self.limit
    }

    fn too_large(&mut self) {
        self.session.fail(ReplyTo::Nothing, too_large(self.limit));
    }
}

/// What the client is told first.
pub fn welcome(socket_id: &str, identity: &Identity) -> Control {
    Control::Welcome {
        socket_id: socket_id.to_owned(),
        client_id: identity.sub.as_deref().unwrap_or(socket_id).to_owned(),
        expires_at_ms: identity.expires_at_ms,
    }
}
