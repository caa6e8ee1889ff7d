//! The Socket.IO gateway, path `/socket.io/`, namespace `/`.
//!
//! Speaks Engine.IO 4 and Socket.IO 5 itself, because the outbox of a connection is bounded in bytes, shared with the
//! other transports, and tells a slow consumer from a fast one, none of which a library's own queue allows
//! (`docs/adr/0001-socketio-codec.md`).

mod packet;
mod polling;
mod websocket;

pub use polling::PollingSessions;

use super::{
    Gateway, Handshake,
    driver::Inbound,
    fields::Fields,
    registry::Expected,
    request::{Request, too_large},
    session::Session,
    upgrade::Upgrade,
};
use axum::{
    body::Bytes,
    extract::{Request as HttpRequest, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use event_router::{CloseReason, Control, Outbox, Outgoing, ReplyTo};
use metrics::Transport;
use packet::{Engine, Packet};
use serde_json::{json, value::RawValue};
use shared_types::{ErrorKind, Problem};
use std::sync::Arc;

/// Malformed packets in a row that end the connection.
const MALFORMED: u32 = 3;
/// How much of an unknown namespace's name is said back, in characters.
const NAMESPACE: usize = 64;

/// `GET /socket.io/`: a WebSocket, a poll, or the beginning of a polling session.
pub async fn get(
    State(gateway): State<Arc<Gateway>>,
    handshake: Handshake,
    request: HttpRequest,
) -> Response {
    if handshake.parameter("EIO") != Some("4") {
        return refuse(5, "Unsupported protocol version");
    }
    match (handshake.parameter("transport"), handshake.parameter("sid")) {
        (Some("websocket"), sid) => {
            let sid = sid.map(str::to_owned);
            let (mut parts, _) = request.into_parts();
            match Upgrade::read(&mut parts) {
                Ok(upgrade) => websocket::upgrade(gateway, handshake, upgrade, sid),
                Err(_) => refuse(3, "Bad request"),
            }
        }
        (Some("polling"), None) => polling::open(&gateway, handshake),
        (Some("polling"), Some(sid)) => polling::poll(&gateway, sid).await,
        _ => refuse(0, "Transport unknown"),
    }
}

/// `POST /socket.io/`: packets of a polling session.
pub async fn post(State(gateway): State<Arc<Gateway>>, handshake: Handshake, body: Bytes) -> Response {
    if handshake.parameter("EIO") != Some("4") {
        return refuse(5, "Unsupported protocol version");
    }
    match (handshake.parameter("transport"), handshake.parameter("sid")) {
        (Some("polling"), Some(sid)) => polling::receive(&gateway, sid, &body).await,
        (Some("polling"), None) => refuse(2, "Bad handshake method"),
        _ => refuse(0, "Transport unknown"),
    }
}

/// A refusal as Engine.IO's clients expect it.
fn refuse(code: u8, message: &str) -> Response {
    let body = json!({ "code": code, "message": message }).to_string();
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One Socket.IO connection, whatever carries its packets.
pub struct Connection {
    gateway: Arc<Gateway>,
    handshake: Handshake,
    outbox: Arc<Outbox>,
    /// There once the client was let into the namespace.
    session: Option<Session>,
    /// There until then.
    expected: Option<Expected>,
    malformed: u32,
    /// Attachments of a refused message that are still to come, and are dropped one by one.
    attachments: u64,
}

impl Connection {
    fn new(gateway: Arc<Gateway>, handshake: Handshake) -> Self {
        let outbox = Outbox::new(gateway.limits.outbox);
        let expected = Some(gateway.registry.expect(outbox.clone()));
        Self { gateway, handshake, outbox, session: None, expected, malformed: 0, attachments: 0 }
    }

    /// Takes an Engine.IO packet.
    async fn receive(&mut self, text: &str) -> Inbound {
        match Engine::parse(text) {
            Some(Engine::Message(message)) => self.message(message).await,
            Some(Engine::Pong) => Inbound::Alive,
            Some(Engine::Close) => Inbound::Close(CloseReason::Gone),
            Some(Engine::Attachment) => self.attachment(),
            Some(Engine::Noop | Engine::Upgrade | Engine::Ping(_)) => Inbound::Continue,
            None => self.malformed(Problem::invalid("INVALID_PACKET", "not an Engine.IO packet")),
        }
    }

    async fn message(&mut self, text: &str) -> Inbound {
        // A client that goes on to another message sends no more of those.
        self.attachments = 0;
        match Packet::parse(text) {
            Some(Packet::Connect(auth)) => self.connect(auth).await,
            Some(Packet::Disconnect) => Inbound::Close(CloseReason::Gone),
            Some(Packet::Event { ack, name, arguments }) => self.event(ack, &name, &arguments).await,
            Some(Packet::Ack) => Inbound::Continue,
            Some(Packet::OtherNamespace(name)) => {
                let name: String = name.chars().take(NAMESPACE).collect();
                let problem = Problem::invalid("INVALID_NAMESPACE", format!("there is no namespace /{name}"));
                self.refused(Control::NoNamespace(name, problem.clone()), problem)
            }
            Some(Packet::Binary { ack, attachments }) => self.binary_message(ack, attachments),
            None => self.malformed(Problem::invalid("INVALID_PACKET", "not a Socket.IO packet")),
        }
    }

    /// Lets the client into the namespace, or tells it why not.
    async fn connect(&mut self, auth: &str) -> Inbound {
        if self.session.is_some() {
            return Inbound::Close(CloseReason::Policy("connected twice".to_owned()));
        }
        let given = self.auth_token(auth);
        let admitted = given.and_then(|token| self.gateway.admit(token.as_deref(), &self.handshake));
        match admitted {
            Ok(identity) => {
                let (transport, outbox) = (Transport::SocketIo, self.outbox.clone());
                let session = self.gateway.session(transport, &self.handshake, outbox, identity).await;
                self.outbox.control(ReplyTo::Nothing, self.gateway.welcome(session.connection()));
                self.session = Some(session);
                self.expected = None;
                self.malformed = 0;
                Inbound::Continue
            }
            Err(problem) => self.refused(Control::Refused(problem.clone()), problem),
        }
    }

    /// The token in the handshake's `auth`, else the one that came with the HTTP request.
    fn auth_token(&self, auth: &str) -> Result<Option<String>, Problem> {
        if auth.is_empty() {
            return Ok(self.handshake.token.clone());
        }
        let mut fields = Fields::parse(auth).map_err(|_| {
            Problem::new(ErrorKind::Unauthenticated, "AUTH_FAILED", "auth must be a JSON object")
        })?;
        let token = fields.text("token").map_err(|_| {
            Problem::new(ErrorKind::Unauthenticated, "AUTH_FAILED", "auth.token must be a text")
        })?;
        Ok(token.or_else(|| self.handshake.token.clone()))
    }

    async fn event(&mut self, ack: Option<u64>, name: &str, arguments: &[&RawValue]) -> Inbound {
        let to = ack.map_or(ReplyTo::Nothing, ReplyTo::Ack);
        let Some(session) = &mut self.session else {
            return Inbound::Close(CloseReason::Policy("an event before the connect".to_owned()));
        };
        self.malformed = 0;
        if !session.admit(&to) {
            return Inbound::Continue;
        }
        let text = arguments.first().map_or("{}", |argument| argument.get());
        let limit = session.limits().message_bytes;
        let request = if text.len() > limit {
            Err(too_large(limit))
        } else if arguments.len() > 1 {
            Err(Problem::field("arguments", "an event takes one object"))
        } else {
            Fields::parse(text).and_then(|fields| Request::read(name, fields, "type"))
        };
        match request {
            Ok(request) => session.handle(request, to).await,
            Err(problem) => session.fail(to, problem),
        }
        Inbound::Continue
    }

    /// Refuses a message with binary attachments. Like any refused request it ends nothing, however many there are.
    fn binary_message(&mut self, ack: Option<u64>, attachments: u64) -> Inbound {
        let Some(session) = &mut self.session else {
            return Inbound::Close(CloseReason::Policy("an event before the connect".to_owned()));
        };
        self.malformed = 0;
        self.attachments = attachments;
        let to = ack.map_or(ReplyTo::Nothing, ReplyTo::Ack);
        if session.admit(&to) {
            session
                .fail(to, binary("binary attachments are not supported: send bytes as base64 in the JSON"));
        }
        Inbound::Continue
    }

    /// Drops an attachment of a refused message, which counts against the rate as any message; where none is due, it
    /// is malformed.
    fn attachment(&mut self) -> Inbound {
        match (&mut self.session, self.attachments.checked_sub(1)) {
            (Some(session), Some(left)) => {
                self.attachments = left;
                session.admit(&ReplyTo::Nothing);
                Inbound::Continue
            }
            _ => self.malformed(binary("packets must be text")),
        }
    }

    /// Answers a packet that could not be read; the third in a row ends the connection.
    fn malformed(&mut self, problem: Problem) -> Inbound {
        self.refused(Control::Failed(problem.clone()), problem)
    }

    /// Answers a packet that comes to nothing; the third in a row ends the connection, that of a client that tries
    /// one token after the other too.
    fn refused(&mut self, answer: Control, problem: Problem) -> Inbound {
        self.gateway.metrics.rejected(problem.code);
        self.outbox.control(ReplyTo::Nothing, answer);
        self.malformed += 1;
        if self.malformed >= MALFORMED {
            return Inbound::Close(CloseReason::Policy(
                "three malformed or refused packets in a row".to_owned(),
            ));
        }
        Inbound::Continue
    }

    /// Ends everything that the connection had.
    async fn end(self) {
        self.outbox.close(CloseReason::Gone);
        if let Some(session) = self.session {
            session.end().await;
        }
    }
}

fn binary(rule: &str) -> Problem {
    Problem::invalid("BINARY_NOT_SUPPORTED", rule)
}

/// What a client is told before the server ends its connection: an `error` that says why, and the disconnect. After a
/// disconnect by the server, Socket.IO's clients stay away; where they are to come back by themselves, only the
/// transport ends.
fn farewell(reason: &CloseReason) -> Vec<Outgoing> {
    let problem = match reason {
        CloseReason::Gone | CloseReason::GoingAway => return Vec::new(),
        CloseReason::SlowConsumer => Some(Problem::new(
            ErrorKind::TooMany,
            "SLOW_CONSUMER",
            "too slow: reconnect and recover by position",
        )),
        CloseReason::TokenExpired => Some(Problem::new(
            ErrorKind::Unauthenticated,
            "TOKEN_EXPIRED",
            "the token expired and was not replaced",
        )),
        CloseReason::Revoked => {
            Some(Problem::new(ErrorKind::Unauthenticated, "TOKEN_REVOKED", "the token was revoked"))
        }
        CloseReason::Policy(rule) => Some(Problem::invalid("PROTOCOL_VIOLATION", rule.clone())),
        CloseReason::TooManyMessages => Some(Problem::limit("too many messages for too long")),
    };
    let error =
        problem.map(|problem| Outgoing::Control(ReplyTo::Nothing, Box::new(Control::Failed(problem))));
    error.into_iter().chain([Outgoing::Packet("41")]).collect()
}
