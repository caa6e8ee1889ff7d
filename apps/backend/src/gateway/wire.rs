//! The writing side of a WebSocket connection, shared by those who write to it.
//!
//! Frames come from the connection's outbox, written by its writer without waiting ([`Wire`]), and from the WebSocket
//! library, which answers pings and closes ([`Shared`]). What the kernel does not take at once is kept here, whole
//! frames behind one another, and nobody else writes until it has gone.

use super::encode;
use bytes::Bytes;
use event_router::{Flushed, Outbox, Outgoing, Protocol, Wire};
use parking_lot::Mutex;
use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes written with one system call, about.
const BATCH: usize = 64 << 10;
/// Bytes kept of what the library writes while the connection takes nothing; past it the library waits.
const KEPT: usize = 64 << 10;

#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    gone: usize,
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes on; answers whether nothing is left.
    fn write(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while !self.is_empty() {
            match stream.try_write(&self.bytes[self.gone..]) {
                Ok(written) => self.gone += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        *self = Self::default();
        Ok(true)
    }
}

/// A connection that is written to directly.
pub struct SocketWire {
    stream: Arc<TcpStream>,
    protocol: Protocol,
    rest: Mutex<Rest>,
}

/// What a writer needs for a moment, once a thread.
#[derive(Default)]
struct Scratch {
    batch: Vec<Outgoing>,
    bytes: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl SocketWire {
    /// A wire into `stream` that speaks `protocol`.
    pub fn new(stream: Arc<TcpStream>, protocol: Protocol) -> Arc<Self> {
        Arc::new(Self { stream, protocol, rest: Mutex::default() })
    }

    /// Writes what could not be written at once, waiting as long as the connection takes nothing; answers after
    /// each piece whether all has gone. Cancel-safe.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn drain(&self) -> io::Result<bool> {
        if self.rest.lock().write(&self.stream)? {
            return Ok(true);
        }
        self.stream.writable().await?;
        self.rest.lock().write(&self.stream)
    }

    /// Writes to this connection only, behind what waits in the wire.
    pub fn write(&self, outgoing: &[Outgoing]) {
        let mut rest = self.rest.lock();
        for frame in outgoing.iter().filter_map(|outgoing| encode::frame(self.protocol, outgoing)) {
            rest.keep(&frame);
        }
        // What does not go now goes with the next drain; an error shows there and when reading.
        let _ = rest.write(&self.stream);
    }

    /// Says goodbye to the connection's peer; whoever still holds the wire writes into nothing.
    pub fn end(&self) {
        let _ = socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Both);
    }

    /// Writes as much as goes at once and keeps the rest.
    fn put(&self, rest: &mut Rest, bytes: &[u8]) -> bool {
        let written = self.stream.try_write(bytes).unwrap_or(0);
        if written < bytes.len() {
            rest.keep(&bytes[written..]);
        }
        written == bytes.len()
    }
}

impl Wire for SocketWire {
    fn flush(&self, outbox: &Outbox) -> Flushed {
        let mut rest = self.rest.lock();
        if !rest.is_empty() {
            return Flushed::Blocked;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { batch, bytes } = scratch;
            let more = outbox.take_now(BATCH, batch);
            let gone = match &**batch {
                [] => true,
                [only] => encode::frame(self.protocol, only).is_none_or(|frame| self.put(&mut rest, &frame)),
                several => {
                    let frames = several.iter().filter_map(|outgoing| encode::frame(self.protocol, outgoing));
                    frames.for_each(|frame: Bytes| bytes.extend_from_slice(&frame));
                    let gone = self.put(&mut rest, bytes);
                    bytes.clear();
                    bytes.shrink_to(4 * BATCH);
                    gone
                }
            };
            batch.clear();
            match (gone, more) {
                (false, _) => Flushed::Blocked,
                (true, true) => Flushed::More,
                (true, false) => Flushed::Empty,
            }
        })
    }
}

/// The connection as the WebSocket library sees it.
pub struct Shared {
    stream: Arc<TcpStream>,
    wire: Arc<SocketWire>,
}

impl Shared {
    /// Reads from the stream and writes into its wire.
    pub fn new(stream: Arc<TcpStream>, wire: Arc<SocketWire>) -> Self {
        Self { stream, wire }
    }

    fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.wire.rest.lock().write(&self.stream)? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.stream.poll_write_ready(cx))?;
        }
    }
}

impl AsyncRead for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Shared {
    /// Takes all or nothing, so that frames stay whole.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut rest = self.wire.rest.lock();
            if rest.is_empty() || rest.bytes.len() < KEPT {
                rest.keep(bytes);
                rest.write(&self.stream)?;
                return Poll::Ready(Ok(bytes.len()));
            }
            if !rest.write(&self.stream)? {
                drop(rest);
                ready!(self.stream.poll_write_ready(cx))?;
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_rest(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        // The socket closes when its last owner lets go.
        Poll::Ready(socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write))
    }
}
