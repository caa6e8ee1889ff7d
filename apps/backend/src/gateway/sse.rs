//! Server-sent events: `GET /api/stream`.
//!
//! Each stream is a session with one subscription a topic. A task of its own writes into the response's body, pages
//! through recovery at the connection's pace, and ends with it.

mod wish;

use super::{
    Gateway, Handshake,
    cursor::Cursor,
    encode,
    request::Request,
    session::{Session, may_receive},
};
use auth::Identity;
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use event_log::TopicKey;
use event_router::{
    CloseReason, Control, LiveEvent, Outbox, Outgoing, Protocol, ReplyTo, Subscribe, Subscribed,
    Subscription, now_ms,
};
use metrics::Transport;
use serde_json::{Value, json};
use shared_types::{Position, Problem, ReturnMode, SubscriptionId, TopicName, rights::Verb};
use std::{
    fmt::Write as _,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use wish::Wish;

/// Bytes written in one piece.
const BATCH: usize = 64 << 10;
/// Pieces that may wait for the connection, before the outbox fills.
const PIECES: usize = 4;
/// Messages that may come before the stream has begun.
const HELD: usize = 10_000;

/// Answers `GET /api/stream`.
pub async fn stream(
    State(gateway): State<Arc<Gateway>>,
    handshake: Handshake,
    headers: HeaderMap,
) -> Response {
    match open(&gateway, &handshake, &headers).await {
        Ok(response) => response,
        Err(problem) => gateway.refuse(&problem),
    }
}

async fn open(
    gateway: &Arc<Gateway>,
    handshake: &Handshake,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let identity = gateway.admit(handshake.token.as_deref(), handshake)?;
    let wish = Wish::read(handshake, headers, gateway.limits_of(&identity.scope).subscriptions)?;
    for channel in &wish.channels {
        may_receive(&identity, Verb::Subscribe, channel)?;
    }
    for topic in &wish.topics {
        may_receive(&identity, Verb::Subscribe, topic)?;
        gateway.policy.check(&identity.scope, topic).await?;
    }
    let place = gateway.registry.place(handshake.address)?;
    let (pieces, body) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(PIECES);
    let outbox = Outbox::new(gateway.limits.outbox);
    let transport = Transport::ServerSentEvents;
    let session = gateway.session(transport, handshake, outbox.clone(), identity.clone()).await;
    let stream = Stream::new(gateway.clone(), session, outbox, wish, &identity, pieces);
    gateway.tasks.spawn(async move {
        let _place = place;
        stream.run().await;
    });
    let body =
        futures::stream::unfold(body, |mut body| async move { body.recv().await.map(|piece| (piece, body)) });
    Ok(event_stream(Body::from_stream(body)))
}

/// The answer that streams `body` as server-sent events, past whatever would keep it back.
pub fn event_stream(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (StatusCode::OK, headers, body).into_response()
}

/// One stream at work.
struct Stream {
    gateway: Arc<Gateway>,
    session: Session,
    outbox: Arc<Outbox>,
    channels: Vec<TopicName>,
    cursor: Cursor,
    /// The first answer of each topic, until all have come and the stream begins.
    opening: Option<Vec<Subscribed>>,
    /// How often it says that it is alive.
    beat: Duration,
    /// What came live before the stream began.
    held: Vec<Outgoing>,
    pieces: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
}

impl Stream {
    fn new(
        gateway: Arc<Gateway>,
        session: Session,
        outbox: Arc<Outbox>,
        wish: Wish,
        identity: &Identity,
        pieces: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    ) -> Self {
        let subscriptions = wish.topics.iter().map(|topic| {
            Arc::new(Subscription {
                id: SubscriptionId::generate(),
                key: TopicKey::new(&identity.scope, topic),
                filter: wish.filter.clone(),
                mode: wish.mode,
                outbox: outbox.clone(),
                socket_id: session.connection().socket_id.clone(),
                failed: AtomicBool::new(false),
            })
        });
        subscriptions.for_each(|subscription| session.hold(identity, subscription));
        let beat = wish.heartbeat();
        Self {
            gateway,
            session,
            outbox,
            channels: wish.channels,
            cursor: wish.cursor,
            opening: Some(Vec::new()),
            held: Vec::new(),
            beat,
            pieces,
        }
    }

    /// Its subscriptions.
    fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.session.connection().subscriptions.lock().values().cloned().collect()
    }

    async fn run(mut self) {
        for subscription in self.subscriptions() {
            let since = self.cursor.get(&subscription.key.topic).cloned();
            self.subscribe(subscription, since).await;
        }
        for channel in std::mem::take(&mut self.channels) {
            self.session.handle(Request::Join(channel), ReplyTo::Nothing).await;
        }
        self.write_until_closed().await;
        self.session.end().await;
    }

    async fn subscribe(&self, subscription: Arc<Subscription>, since: Option<Position>) {
        self.gateway.hub.subscribe(Subscribe { subscription, since, reply: ReplyTo::Nothing }).await;
    }

    async fn write_until_closed(&mut self) {
        let mut batch = Vec::new();
        let timer = tokio::time::sleep(self.beat);
        tokio::pin!(timer);
        let mut first = String::new();
        if self.subscriptions().is_empty() {
            // Channels alone: nothing is to be waited for.
            self.opening = None;
            self.begin(Vec::new(), &mut first).await;
            if self.pieces.send(Ok(first.into())).await.is_err() {
                return;
            }
        }
        loop {
            let mut text = String::new();
            tokio::select! {
                () = self.pieces.closed() => return,
                taken = self.outbox.take(BATCH, &mut batch) => {
                    if taken.is_err() {
                        return;
                    }
                    for outgoing in batch.drain(..) {
                        self.write(outgoing, &mut text).await;
                    }
                }
                () = &mut timer => {
                    let beat = json!({ "type": "heartbeat", "timestamp": now_ms() });
                    let _ = write!(text, "id: {}\ndata: {beat}\n\n", self.cursor.encode());
                    timer.as_mut().reset(Instant::now() + self.beat);
                }
            }
            if text.is_empty() {
                continue;
            }
            // While the connection is slow this waits, the outbox fills, and in the end closes the stream.
            let written = tokio::select! {
                written = self.pieces.send(Ok(text.into())) => written.is_ok(),
                () = self.outbox.overflowed() => false,
            };
            if !written {
                return;
            }
        }
    }

    /// Writes one message. Answers to the subscribes come first, then what came live meanwhile.
    async fn write(&mut self, outgoing: Outgoing, out: &mut String) {
        let is_answer = matches!(
            &outgoing,
            Outgoing::Control(_, control) if matches!(**control, Control::Subscribed(_) | Control::Failed(_))
        );
        if self.opening.is_some() && !is_answer {
            if self.held.len() >= HELD {
                self.outbox.close(CloseReason::SlowConsumer);
            }
            return self.held.push(outgoing);
        }
        self.write_now(outgoing, out).await;
        if self.opening.is_none() {
            for outgoing in std::mem::take(&mut self.held) {
                self.write_now(outgoing, out).await;
            }
        }
    }

    async fn write_now(&mut self, outgoing: Outgoing, out: &mut String) {
        match outgoing {
            Outgoing::Event { event, mode, .. } => self.event(&event, mode, out),
            Outgoing::Message(message) => {
                out.push_str(&String::from_utf8_lossy(&message.raw(Protocol::ServerSent)))
            }
            Outgoing::MessageEvent { message, .. } => {
                out.push_str(&String::from_utf8_lossy(&message.event(Protocol::ServerSent)));
            }
            Outgoing::Packet(_) => {}
            Outgoing::Control(_, control) => match *control {
                Control::Subscribed(subscribed) => self.subscribed(subscribed, out).await,
                Control::Position { topic, position, gap, .. } => self.position(topic, position, gap, out),
                Control::Failed(problem) => {
                    let members = encode::problem_members(&problem);
                    let _ = write!(out, "event: error\ndata: {{{members}}}\n\n");
                    // A topic that cannot be opened leaves the stream without a part of what it promised.
                    if problem.code != "TOKEN_EXPIRED" {
                        self.outbox.close(CloseReason::Gone);
                    }
                }
                Control::Done(_)
                | Control::Pong
                | Control::Ended { .. }
                | Control::Left { .. }
                | Control::Welcome { .. }
                | Control::Refused(_)
                | Control::NoNamespace(..) => {}
            },
        }
    }

    fn event(&mut self, event: &LiveEvent, mode: ReturnMode, out: &mut String) {
        let stored = event.event();
        self.cursor.set(stored.key.topic.clone(), stored.position.clone());
        let _ = writeln!(out, "id: {}", self.cursor.encode());
        out.push_str(&String::from_utf8_lossy(&event.encoded(Protocol::ServerSent, mode)));
    }

    fn position(&mut self, topic: TopicName, position: Position, gap: bool, out: &mut String) {
        let data = json!({ "topic": topic, "epoch": &*position.epoch, "offset": position.offset });
        self.cursor.set(topic, position);
        if gap {
            let _ = write!(out, "id: {}\nevent: gap\ndata: {data}\n\n", self.cursor.encode());
        }
    }

    /// The first answers are told together, and their events behind them; later ones are further pages.
    async fn subscribed(&mut self, subscribed: Subscribed, out: &mut String) {
        let Some(mut opening) = self.opening.take() else { return self.page(subscribed, out).await };
        opening.push(subscribed);
        if opening.len() < self.subscriptions().len() {
            self.opening = Some(opening);
            return;
        }
        self.begin(opening, out).await;
    }

    /// Says where each topic stands, and then what came before.
    async fn begin(&mut self, opening: Vec<Subscribed>, out: &mut String) {
        let list: Vec<Value> = opening
            .iter()
            .map(|answer| {
                let position = &answer.position;
                json!({
                    "topic": answer.topic,
                    "epoch": &*position.epoch,
                    "offset": position.offset,
                    "recovered": answer.recovered,
                })
            })
            .collect();
        let data = json!({ "socketId": self.session.connection().socket_id, "subscriptions": list });
        for answer in &opening {
            if !answer.recovered {
                self.cursor.set(answer.topic.clone(), answer.position.clone());
            }
        }
        let _ = write!(out, "id: {}\nevent: subscribed\ndata: {data}\n\n", self.cursor.encode());
        for answer in opening {
            self.page(answer, out).await;
        }
    }

    async fn page(&mut self, subscribed: Subscribed, out: &mut String) {
        let Subscribed { id, topic, position, events, mode, more, .. } = subscribed;
        for event in &events {
            self.event(event, mode, out);
        }
        self.cursor.set(topic, position.clone());
        let subscription = self.session.connection().subscriptions.lock().get(&id).cloned();
        if more && let Some(subscription) = subscription {
            self.subscribe(subscription, Some(position)).await;
        }
    }
}
