//! Socket.IO over HTTP long-polling: a session that outlives its requests, on this instance.

use super::{Connection, farewell, packet::SEPARATOR, refuse, websocket::open_packet};
use crate::gateway::{
    Gateway, Handshake,
    driver::{Inbound, PING_EVERY, PONG_WITHIN},
    encode,
    registry::Place,
};
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use dashmap::DashMap;
use event_router::{CloseReason, Outbox, Protocol};
use parking_lot::Mutex;
use shared_types::ids::new_id;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a connection may take to open, or to upgrade.
pub const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// How often abandoned sessions are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// Bytes of one poll's answer, beyond which no further message joins.
const BATCH: usize = 256 << 10;

/// A new Engine.IO session id: not to be guessed, for it is all that a poll shows.
pub fn new_sid() -> String {
    format!("{}{:016x}", new_id("eio"), rand::random::<u64>())
}

struct PollingSession {
    connection: tokio::sync::Mutex<Option<Connection>>,
    outbox: Arc<Outbox>,
    /// Held by the one poll that waits.
    polling: AtomicBool,
    /// Ends the waiting poll, because the WebSocket takes over.
    release: Notify,
    /// Whether the client was told that its connection ends; the next poll closes the transport.
    has_parted: AtomicBool,
    seen: Mutex<Instant>,
    ping_at: Mutex<Instant>,
    _place: Place,
}

impl PollingSession {
    fn touch(&self) {
        *self.seen.lock() = Instant::now();
    }

    fn has_parted(&self) -> bool {
        self.has_parted.load(Ordering::Acquire)
    }

    /// Whether its client has been silent for longer than one that is there.
    fn is_abandoned(&self, now: Instant) -> bool {
        let patience = if self.has_parted() { SWEEP } else { PING_EVERY + PONG_WITHIN };
        now.duration_since(*self.seen.lock()) > patience
    }
}

/// The polling sessions of this process.
#[derive(Default)]
pub struct PollingSessions(DashMap<String, Arc<PollingSession>>);

impl PollingSessions {
    /// Whether `sid` is one of them, and goes on.
    pub fn knows(&self, sid: &str) -> bool {
        self.get(sid).is_some_and(|session| !session.has_parted())
    }

    fn get(&self, sid: &str) -> Option<Arc<PollingSession>> {
        self.0.get(sid).map(|session| session.clone())
    }

    /// Ends the waiting poll of a session that is being upgraded.
    pub fn release(&self, sid: &str) {
        if let Some(session) = self.get(sid) {
            session.release.notify_one();
        }
    }

    /// Takes a session's connection out of long-polling for good.
    pub async fn take(&self, sid: &str) -> Option<Connection> {
        let (_, session) = self.0.remove(sid)?;
        session.connection.lock().await.take()
    }

    async fn end(&self, sid: &str) {
        if let Some(connection) = self.take(sid).await {
            connection.end().await;
        }
    }

    /// Ends sessions that nobody polls any more, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SWEEP) => {}
            }
            let now = Instant::now();
            let abandoned: Vec<String> = self
                .0
                .iter()
                .filter(|session| session.is_abandoned(now))
                .map(|session| session.key().clone())
                .collect();
            for sid in abandoned {
                self.end(&sid).await;
            }
        }
    }
}

/// Begins a session.
pub fn open(gateway: &Arc<Gateway>, handshake: Handshake) -> Response {
    let place = match gateway.registry.place(handshake.address) {
        Ok(place) => place,
        Err(problem) => return gateway.refuse(&problem),
    };
    let sid = new_sid();
    let connection = Connection::new(gateway.clone(), handshake);
    let now = Instant::now();
    let session = PollingSession {
        outbox: connection.outbox.clone(),
        connection: tokio::sync::Mutex::new(Some(connection)),
        polling: AtomicBool::new(false),
        release: Notify::new(),
        has_parted: AtomicBool::new(false),
        seen: Mutex::new(now),
        ping_at: Mutex::new(now + PING_EVERY),
        _place: place,
    };
    gateway.polling.0.insert(sid.clone(), Arc::new(session));
    text(open_packet(&sid, &["websocket"], gateway))
}

fn text(body: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=UTF-8"), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::OK, headers, body).into_response()
}

/// Frees the place of the poll that waited, however it ends.
struct Polling(Arc<PollingSession>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.polling.store(false, Ordering::Release);
        self.0.touch();
    }
}

/// Waits for something to write and answers it.
pub async fn poll(gateway: &Arc<Gateway>, sid: &str) -> Response {
    let Some(session) = gateway.polling.get(sid) else { return refuse(1, "Session ID unknown") };
    if session.polling.swap(true, Ordering::Acquire) {
        // Two polls at once mean that the client lost count; its session ends, as in the reference server.
        gateway.polling.end(sid).await;
        return refuse(3, "Bad request");
    }
    let _polling = Polling(session.clone());
    session.touch();
    if session.has_parted() {
        gateway.polling.0.remove(sid);
        return text("1".to_owned());
    }
    let ping_at = *session.ping_at.lock();
    let mut batch = Vec::new();
    let taken = tokio::select! {
        taken = session.outbox.take(BATCH, &mut batch) => taken,
        () = session.release.notified() => return text("6".to_owned()),
        () = tokio::time::sleep_until(ping_at) => {
            *session.ping_at.lock() = Instant::now() + PING_EVERY;
            return text("2".to_owned());
        }
    };
    match taken {
        Ok(()) => text(joined(&batch)),
        Err(reason) => text(part(gateway, sid, &session, &reason).await),
    }
}

/// Ends a session's connection; answers what its client is told of that. Where there is something to tell, the
/// transport is closed by the next poll only: a client takes a close at once, and looks at the packets before it later,
/// as ones of a connection that is gone.
async fn part(gateway: &Gateway, sid: &str, session: &PollingSession, reason: &CloseReason) -> String {
    let told = farewell(reason);
    if told.is_empty() {
        gateway.polling.end(sid).await;
        return "1".to_owned();
    }
    session.has_parted.store(true, Ordering::Release);
    if let Some(connection) = session.connection.lock().await.take() {
        connection.end().await;
    }
    joined(&told)
}

fn joined(batch: &[event_router::Outgoing]) -> String {
    let mut body = String::new();
    for message in batch.iter().filter_map(|outgoing| encode::message(Protocol::SocketIo, outgoing)) {
        if !body.is_empty() {
            body.push(SEPARATOR);
        }
        body.push_str(&String::from_utf8_lossy(&message));
    }
    body
}

/// Takes a client's packets.
pub async fn receive(gateway: &Arc<Gateway>, sid: &str, body: &[u8]) -> Response {
    let Some(session) = gateway.polling.get(sid) else { return refuse(1, "Session ID unknown") };
    let Ok(body) = std::str::from_utf8(body) else { return refuse(3, "Bad request") };
    session.touch();
    if session.has_parted() {
        // Its client's own goodbye, which nobody needs any more.
        return taken_in();
    }
    let mut connection = session.connection.lock().await;
    for packet in body.split(SEPARATOR) {
        let Some(open) = connection.as_mut() else { return refuse(1, "Session ID unknown") };
        if let Inbound::Close(reason) = open.receive(packet).await {
            session.outbox.close(reason.clone());
            if reason == CloseReason::Gone
                && let Some(gone) = connection.take()
            {
                gateway.polling.0.remove(sid);
                gone.end().await;
            }
            break;
        }
    }
    drop(connection);
    taken_in()
}

/// The answer to packets that were taken.
fn taken_in() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html")];
    (StatusCode::OK, headers, "ok").into_response()
}
