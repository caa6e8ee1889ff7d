//! One client connection: handshake, subscribe, and a read loop that costs little a message.
//!
//! Speaks all three transports of the wire protocol, to the platform and to the peers alike. It knows
//! nothing of what is measured.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::wire::frames::{FrameDecoder, client_pong, client_text};
use crate::wire::stream::StreamDecoder;
use crate::wire::{Decoder, Incoming};

/// How long the server may take to answer a handshake or a subscription.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Sixteen events of the usual size fit.
const READ_BUFFER: usize = 8 * 1024;
const MAX_HEAD: usize = 16 * 1024;

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Plain WebSocket, `/ws`.
    Ws,
    /// Socket.IO over WebSocket, `/socket.io/`.
    #[value(name = "socketio")]
    SocketIo,
    /// Server-sent events, `/api/stream`.
    Sse,
}

/// Where a server listens and what it wants to see.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The token, where the server asks for one.
    pub token: Option<String>,
}

/// What one connection subscribes to.
#[derive(Debug, Clone)]
pub struct Interest<'a> {
    /// The topic.
    pub topic: &'a str,
    /// A filter as JSON text.
    pub filter: Option<String>,
}

/// The writing half, shared by whoever writes on this connection.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
    pending: RefCell<Vec<u8>>,
    transport: Transport,
}

impl Writer {
    /// Adds a text message to what is written next.
    pub fn queue_text(&self, text: &str) {
        client_text(text.as_bytes(), &mut self.pending.borrow_mut());
    }

    /// Adds a request (`subscribe`, `publish`): its fields as JSON without the braces.
    ///
    /// On plain WebSocket a `ref` is answered; on Socket.IO it asks for an acknowledgement.
    pub fn queue_request(&self, name: &str, fields: &str, reference: Option<u64>) {
        let text = match (self.transport, reference) {
            (Transport::SocketIo, Some(id)) => format!("42{id}[\"{name}\",{{{fields}}}]"),
            (Transport::SocketIo, None) => format!("42[\"{name}\",{{{fields}}}]"),
            (_, Some(id)) => format!("{{\"type\":\"{name}\",\"ref\":{id},{fields}}}"),
            (_, None) => format!("{{\"type\":\"{name}\",{fields}}}"),
        };
        self.queue_text(&text);
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn flush(&self) -> Result<()> {
        loop {
            {
                let mut pending = self.pending.borrow_mut();
                if pending.is_empty() {
                    return Ok(());
                }
                match self.half.try_write(&pending) {
                    Ok(written) => {
                        pending.drain(..written);
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.half.writable().await?;
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Link {
    half: OwnedReadHalf,
    writer: Rc<Writer>,
    decoder: Decoder,
    buffer: Box<[u8]>,
    inbox: VecDeque<Vec<u8>>,
}

impl Link {
    /// Connects and shakes hands. A stream of server-sent events subscribes with it.
    ///
    /// # Errors
    /// The server is not there, refuses, or does not answer in time.
    pub async fn open(
        endpoint: &Endpoint,
        transport: Transport,
        interest: Option<&Interest<'_>>,
    ) -> Result<Self> {
        timeout(ANSWER_LIMIT, Self::shake_hands(endpoint, transport, interest))
            .await
            .with_context(|| format!("no handshake within {} s", ANSWER_LIMIT.as_secs()))?
    }

    async fn shake_hands(
        endpoint: &Endpoint,
        transport: Transport,
        interest: Option<&Interest<'_>>,
    ) -> Result<Self> {
        let mut stream = TcpStream::connect(&endpoint.address)
            .await
            .with_context(|| format!("cannot connect to {}", endpoint.address))?;
        stream.set_nodelay(true)?;
        let request = request_head(endpoint, transport, interest);
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
        let (head, rest) = response_head(&mut stream).await?;
        let decoder = decoder_for(transport, &head)?;
        let (half, write_half) = stream.into_split();
        let writer = Writer { half: write_half, pending: RefCell::default(), transport };
        let mut link = Self {
            half,
            writer: Rc::new(writer),
            decoder,
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            inbox: VecDeque::new(),
        };
        link.take_early(&rest)?;
        match transport {
            Transport::Ws => {}
            Transport::SocketIo => link.open_namespace(endpoint).await?,
            Transport::Sse => drop(link.next_text().await.context("the stream's `subscribed`")?),
        }
        Ok(link)
    }

    fn take_early(&mut self, rest: &[u8]) -> Result<()> {
        let Self { decoder, inbox, .. } = self;
        decoder.feed(rest, |incoming| {
            if let Incoming::Text(text) = incoming {
                inbox.push_back(text.to_vec());
            }
        })
    }

    async fn open_namespace(&mut self, endpoint: &Endpoint) -> Result<()> {
        let open = self.next_text().await?;
        ensure!(open.starts_with(b"0{"), "expected an Engine.IO open packet");
        let auth =
            endpoint.token.as_ref().map_or(String::new(), |token| format!("{{\"token\":\"{token}\"}}"));
        self.writer.queue_text(&format!("40{auth}"));
        self.writer.flush().await?;
        loop {
            let text = self.next_text().await?;
            if text.starts_with(b"44") {
                bail!("the server refused: {}", String::from_utf8_lossy(&text));
            }
            if text.starts_with(b"40") {
                return Ok(());
            }
        }
    }

    /// What writes on this connection.
    pub fn writer(&self) -> Rc<Writer> {
        Rc::clone(&self.writer)
    }

    /// Subscribes and waits for the answer. (A stream subscribed when it was opened.)
    ///
    /// # Errors
    /// The server refuses or does not answer in time.
    pub async fn subscribe(&mut self, interest: &Interest<'_>) -> Result<()> {
        if self.writer.transport == Transport::Sse {
            return Ok(());
        }
        self.ask("subscribe", &interest.fields()).await?;
        Ok(())
    }

    /// Joins a channel.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub async fn join(&mut self, channel: &str) -> Result<()> {
        self.ask("channel:join", &format!("\"channel\":\"{channel}\"")).await?;
        Ok(())
    }

    /// Sends a request (its fields as JSON without the braces) and waits for its answer, the whole text. What
    /// comes meanwhile is skipped.
    ///
    /// # Errors
    /// The server refuses or does not answer in time.
    pub async fn ask(&mut self, name: &str, fields: &str) -> Result<Vec<u8>> {
        self.writer.queue_request(name, fields, Some(1));
        self.writer.flush().await?;
        let answered = async {
            loop {
                let text = self.next_text().await?;
                match Answer::read(&text) {
                    Some(Answer::Done(_)) => return anyhow::Ok(text),
                    Some(Answer::Refused { text, .. }) => bail!("the server refused `{name}`: {text}"),
                    None => {}
                }
            }
        };
        timeout(ANSWER_LIMIT, answered).await.with_context(|| format!("no answer to `{name}`"))?
    }

    /// The next answer to a request; everything else is skipped.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn answer(&mut self) -> Result<Answer> {
        loop {
            let text = self.next_text().await?;
            if let Some(answer) = Answer::read(&text) {
                return Ok(answer);
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn next_text(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(text) = self.inbox.pop_front() {
                return Ok(text);
            }
            let mut came = VecDeque::new();
            self.pump(|text, _| came.push_back(text.to_vec())).await?;
            self.inbox = came;
        }
    }

    /// Reads once and hands over every message that is complete, with the time of the read. Pings are
    /// answered on the way.
    ///
    /// # Errors
    /// The connection is broken or was closed.
    pub async fn pump(&mut self, mut each: impl FnMut(&[u8], Instant)) -> Result<()> {
        let read = self.half.read(&mut self.buffer).await?;
        ensure!(read > 0, "the server closed the connection");
        let now = Instant::now();
        let Self { decoder, buffer, writer, .. } = self;
        let speaks_engine_io = writer.transport == Transport::SocketIo;
        let mut closed = None;
        decoder.feed(&buffer[..read], |incoming| match incoming {
            Incoming::Text(b"2") if speaks_engine_io => writer.queue_text("3"),
            Incoming::Text(text) => each(text, now),
            Incoming::Ping(body) => client_pong(body, &mut writer.pending.borrow_mut()),
            Incoming::Close(code) => closed = Some(code),
        })?;
        if let Some(code) = closed {
            bail!("the server closed the connection, code {code:?}");
        }
        writer.flush().await
    }
}

impl Interest<'_> {
    /// The fields of the `subscribe` request.
    pub fn fields(&self) -> String {
        let filter = self.filter.as_ref().map_or(String::new(), |filter| format!(",\"filter\":{filter}"));
        format!("\"topic\":\"{}\"{filter}", self.topic)
    }
}

/// What a server said to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; the request's reference.
    Done(Option<u64>),
    /// Refused; the request's reference, the stable code and the whole text.
    Refused {
        /// The request's reference.
        reference: Option<u64>,
        /// The stable code, empty where there is none.
        code: String,
        /// All that the server said.
        text: String,
    },
}

impl Answer {
    /// Reads an answer, or `None` where the text is something else (an event, `welcome`).
    pub fn read(text: &[u8]) -> Option<Self> {
        let plain = std::str::from_utf8(text).ok()?;
        let (reference, body) = match plain.strip_prefix("43") {
            Some(acknowledgement) => {
                let start = acknowledgement.find('[')?;
                let list: Value = serde_json::from_str(&acknowledgement[start..]).ok()?;
                (acknowledgement[..start].parse().ok(), list.get(0)?.clone())
            }
            None if plain.starts_with("42[\"error\"") => {
                (None, serde_json::from_str::<Value>(&plain[2..]).ok()?[1].clone())
            }
            None => {
                let body: Value = serde_json::from_str(plain).ok()?;
                if !matches!(body["type"].as_str()?, "subscribed" | "ok" | "error") {
                    return None;
                }
                (body["ref"].as_u64(), body)
            }
        };
        if body["ok"] == Value::Bool(false) || body["type"] == "error" || plain.starts_with("42[\"error\"") {
            let code = body["code"].as_str().unwrap_or_default().to_owned();
            return Some(Self::Refused { reference, code, text: plain.to_owned() });
        }
        Some(Self::Done(reference))
    }
}

fn request_head(endpoint: &Endpoint, transport: Transport, interest: Option<&Interest<'_>>) -> String {
    let path = match transport {
        Transport::Ws => "/ws".to_owned(),
        Transport::SocketIo => "/socket.io/?EIO=4&transport=websocket".to_owned(),
        Transport::Sse => stream_path(interest),
    };
    let upgrade = if transport == Transport::Sse {
        "Accept: text/event-stream\r\n"
    } else {
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    };
    // Socket.IO's token goes into the namespace's handshake.
    let token = endpoint.token.as_ref().filter(|_| transport != Transport::SocketIo);
    let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{upgrade}{authorization}\r\n", endpoint.address)
}

fn stream_path(interest: Option<&Interest<'_>>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(interest) = interest {
        query.append_pair("topic", interest.topic);
        if let Some(filter) = &interest.filter {
            query.append_pair("filter", filter);
        }
    }
    format!("/api/stream?{}", query.finish())
}

/// The response's head, and what came after it.
async fn response_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the server closed the connection in the handshake");
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, rest));
        }
        ensure!(bytes.len() < MAX_HEAD, "the handshake's answer is too long");
    }
}

fn decoder_for(transport: Transport, head: &str) -> Result<Decoder> {
    let status = head.split_ascii_whitespace().nth(1).unwrap_or_default();
    let expected = if transport == Transport::Sse { "200" } else { "101" };
    ensure!(
        status == expected,
        "the server answered the handshake: {}",
        head.lines().next().unwrap_or_default()
    );
    if transport != Transport::Sse {
        return Ok(Decoder::WebSocket(FrameDecoder::default()));
    }
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Decoder::Stream(StreamDecoder::new(chunked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_protocols() {
        let read = |text: &str| Answer::read(text.as_bytes());
        assert_eq!(read(r#"{"type":"subscribed","ref":7,"topic":"t"}"#), Some(Answer::Done(Some(7))));
        assert_eq!(read(r#"431[{"ok":true,"topic":"t"}]"#), Some(Answer::Done(Some(1))));
        assert_eq!(read(r#"{"type":"event","topic":"t","data":{}}"#), None);
        assert_eq!(read(r#"42["event",{"id":"evt_1"}]"#), None);
        assert_eq!(read(r#"{"type":"welcome"}"#), None);
        for refused in [
            r#"{"type":"error","ref":3,"code":"LIMIT_EXCEEDED"}"#,
            r#"433[{"ok":false,"code":"LIMIT_EXCEEDED"}]"#,
        ] {
            let Some(Answer::Refused { reference, code, .. }) = read(refused) else { panic!("{refused}") };
            assert_eq!((reference, code.as_str()), (Some(3), "LIMIT_EXCEEDED"));
        }
        assert!(matches!(read(r#"42["error",{"code":"TOKEN_EXPIRED"}]"#), Some(Answer::Refused { .. })));
    }

    #[test]
    fn the_token_goes_where_the_transport_takes_it() {
        let endpoint = Endpoint { address: "127.0.0.1:1".to_owned(), token: Some("secret".to_owned()) };
        let interest = Interest { topic: "a b", filter: Some("{\"x\":1}".to_owned()) };
        assert!(request_head(&endpoint, Transport::Ws, None).contains("Bearer secret"));
        assert!(!request_head(&endpoint, Transport::SocketIo, None).contains("secret"));
        let stream = request_head(&endpoint, Transport::Sse, Some(&interest));
        assert!(
            stream.starts_with("GET /api/stream?topic=a+b&filter=%7B%22x%22%3A1%7D HTTP/1.1\r\n"),
            "{stream}"
        );
        assert!(stream.contains("Bearer secret"));
    }
}
