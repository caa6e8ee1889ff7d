//! The floor to compare with: a bare tokio server that writes a ready-made frame to N sockets.
//!
//! One bounded queue and one task a connection; a task takes all that is queued and writes it with one
//! system call. There are no topics, no filters, no tokens, no limits, no history: whatever a real server
//! does beyond this is its overhead. It speaks just enough of the protocol for the load generator
//! (`/ws` and `/api/stream`), and the frame has the envelope of a real event, so that the same bytes are
//! written.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::wire::frames::{server_text, take_client_frame};

/// Frames waiting for one connection. One that has more is dropped from the list, as a slow consumer.
const QUEUE: usize = 1024;
const MAX_HEAD: usize = 16 * 1024;

/// Both as long as what the other servers put around a payload.
const BEFORE_PAYLOAD: &str = concat!(
    r#"{"type":"event","topic":"bench.fanout.0000000000000000","data":{"id":"evt_00000000000000000000000000","#,
    r#""topic":"bench.fanout.0000000000000000","source":"socket","type":"message","payload":"#,
);
const AFTER_PAYLOAD: &str =
    r#","metadata":{"timestamp":1700000000000,"offset":10000,"epoch":"0000000000000000"}}}"#;

type Queues = Arc<Mutex<Vec<Sender<Bytes>>>>;

#[derive(Clone, Default)]
struct Hub {
    sockets: Queues,
    streams: Queues,
}

impl Hub {
    /// Hands ready-made frames to every queue of its kind.
    fn broadcast(&self, events: &[String]) {
        send_all(&self.sockets, events, |event| server_text(event.as_bytes()));
        send_all(&self.streams, events, stream_chunk);
    }
}

fn send_all(queues: &Queues, events: &[String], encode: impl Fn(&String) -> Vec<u8>) {
    let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
    if queues.is_empty() {
        return;
    }
    let frames: Vec<Bytes> = events.iter().map(|event| Bytes::from(encode(event))).collect();
    queues.retain(|queue| frames.iter().all(|frame| queue.try_send(frame.clone()).is_ok()));
}

fn stream_chunk(event: &String) -> Vec<u8> {
    let text = format!("id: 1\nevent: event\ndata: {event}\n\n");
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn subscribe(queues: &Queues) -> Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    queues.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    receiver
}

/// Serves until standard input closes. Prints one line `{"port":…}` once it listens.
///
/// # Errors
/// The port cannot be bound.
pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
    let hub = Hub::default();
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                // A connection that fails is a client that went away.
                drop(tokio::spawn(serve_connection(stream, hub.clone())));
            }
            read = stdin.read(&mut ignored) => if read.unwrap_or(0) == 0 { return Ok(()) },
        }
    }
}

async fn serve_connection(mut stream: TcpStream, hub: Hub) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = BytesMut::with_capacity(512);
    let head = request_head(&mut stream, &mut bytes).await?;
    if head.starts_with("GET /api/stream") {
        // Boxed, so that the task of a WebSocket connection does not carry the space for it.
        return Box::pin(serve_stream(stream, &hub)).await;
    }
    stream.write_all(upgrade(&head)?.as_bytes()).await?;
    let first = loop {
        if let Some(text) = take_client_frame(&mut bytes)?.flatten() {
            break text;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    if !contains(&first, b"\"type\":\"subscribe\"") {
        return Box::pin(serve_publisher(stream, &hub, bytes, first)).await;
    }
    stream.write_all(&server_text(br#"{"type":"subscribed","topic":"bench","ref":1}"#)).await?;
    drop((head, bytes, first));
    deliver(stream, subscribe(&hub.sockets)).await
}

async fn serve_stream(mut stream: TcpStream, hub: &Hub) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let receiver = subscribe(&hub.streams);
    let subscribed = "event: subscribed\ndata: {\"subscriptions\":[]}\n\n";
    stream.write_all(format!("{head}{:x}\r\n{subscribed}\r\n", subscribed.len()).as_bytes()).await?;
    deliver(stream, receiver).await
}

/// The measured loop: takes all that is queued and writes it at once; ends when the client does.
async fn deliver(mut stream: TcpStream, mut queue: Receiver<Bytes>) -> Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut frames = Vec::new();
    let mut incoming = [0; 64];
    loop {
        tokio::select! {
            biased;
            count = queue.recv_many(&mut frames, QUEUE) => {
                if count == 0 {
                    return Ok(());
                }
                write_frames(&mut writer, &frames).await?;
                frames.clear();
            }
            // Only pongs and the close come here; the end of the stream is what matters.
            read = reader.read(&mut incoming) => if read? == 0 { return Ok(()) },
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

async fn write_frames(writer: &mut WriteHalf<'_>, frames: &[Bytes]) -> Result<()> {
    let rest = match frames {
        [only] => {
            let written = try_write(writer, only)?;
            only.slice(written..)
        }
        several => SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            several.iter().for_each(|frame| scratch.extend_from_slice(frame));
            let written = try_write(writer, scratch)?;
            anyhow::Ok(Bytes::copy_from_slice(&scratch[written..]))
        })?,
    };
    if !rest.is_empty() {
        writer.write_all(&rest).await?;
    }
    Ok(())
}

fn try_write(writer: &WriteHalf<'_>, bytes: &[u8]) -> Result<usize> {
    match writer.try_write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => Ok(other?),
    }
}

async fn serve_publisher(
    mut stream: TcpStream,
    hub: &Hub,
    mut bytes: BytesMut,
    first: Vec<u8>,
) -> Result<()> {
    let mut events = vec![event_around(&first)?];
    loop {
        while let Some(frame) = take_client_frame(&mut bytes)? {
            if let Some(text) = frame {
                events.push(event_around(&text)?);
            }
        }
        if !events.is_empty() {
            hub.broadcast(&events);
            events.clear();
        }
        bytes.reserve(16 * 1024);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// The event around the payload of a `publish` frame, whose last field it is.
fn event_around(publish: &[u8]) -> Result<String> {
    const FIELD: &str = "\"payload\":";
    let text = std::str::from_utf8(publish)?;
    let at = text.find(FIELD).context("a publish frame has a payload")? + FIELD.len();
    let payload = text[at..].strip_suffix('}').context("a publish frame is an object")?;
    Ok(format!("{BEFORE_PAYLOAD}{payload}{AFTER_PAYLOAD}"))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

async fn request_head(stream: &mut TcpStream, bytes: &mut BytesMut) -> Result<String> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(String::from_utf8(bytes.split_to(end + 4).to_vec())?);
        }
        if bytes.len() > MAX_HEAD || stream.read_buf(bytes).await? == 0 {
            bail!("no request");
        }
    }
}

/// The answer to a WebSocket handshake (RFC 6455, 4.2.2).
fn upgrade(head: &str) -> Result<String> {
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim()))
        .context("no Sec-WebSocket-Key")?;
    let signed =
        digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(signed);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_the_handshake_of_the_standard() {
        let answer =
            upgrade("GET /ws HTTP/1.1\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").unwrap();
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(upgrade("GET /ws HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn wraps_the_payload_as_an_event() {
        let event = event_around(br#"{"type":"publish","topic":"bench","payload":{"seq":"1"}}"#).unwrap();
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["data"]["payload"]["seq"], "1");
        assert!(event_around(b"{}").is_err());
    }
}
