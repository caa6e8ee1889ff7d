//! What goes over the connections: WebSocket frames, server-sent events, the sequence number in a message.
//!
//! Pure: bytes in, messages out. The load generator has decoders of its own because a general client
//! (allocation a message, validation, JSON) costs more a message than the servers that it measures.
//! These read only what a server sends: unmasked, uncompressed, on the loopback interface.

pub mod frames;
pub mod http;
pub mod sequence;
pub mod stream;

/// One thing a server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text frame, or the data of one server-sent event.
    Text(&'a [u8]),
    /// A WebSocket ping, to be answered with a pong of the same bytes.
    Ping(&'a [u8]),
    /// The server closed, with this code where it gave one.
    Close(Option<u16>),
}

/// Turns the bytes of one connection into messages.
#[derive(Debug)]
pub enum Decoder {
    /// WebSocket frames.
    WebSocket(frames::FrameDecoder),
    /// An HTTP chunked body of server-sent events.
    Stream(stream::StreamDecoder),
}

impl Decoder {
    /// Takes the next bytes and calls `each` for every message that is complete with them.
    ///
    /// # Errors
    /// What is not the expected protocol.
    pub fn feed(&mut self, bytes: &[u8], each: impl FnMut(Incoming<'_>)) -> anyhow::Result<()> {
        match self {
            Self::WebSocket(frames) => frames.feed(bytes, each),
            Self::Stream(stream) => stream.feed(bytes, each),
        }
    }
}
