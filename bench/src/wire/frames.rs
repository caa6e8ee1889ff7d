//! WebSocket frames (RFC 6455): reading what a server sends, writing what a client and a server send.
//!
//! Fragmented messages are refused: none of the servers under test fragments.

use anyhow::{Result, bail};

use super::Incoming;

const FINAL: u8 = 0x80;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Any mask is as good as another on the loopback interface; a fixed one costs nothing.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Splits a server's bytes into frames, keeping what is incomplete.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    partial: Vec<u8>,
}

impl FrameDecoder {
    /// Takes the next bytes and calls `each` for every complete frame.
    ///
    /// # Errors
    /// A fragmented, masked or unknown frame.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Incoming<'_>)) -> Result<()> {
        if self.partial.is_empty() {
            let used = consume(bytes, &mut each)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let used = consume(&self.partial, &mut each)?;
            self.partial.drain(..used);
        }
        Ok(())
    }
}

fn consume(bytes: &[u8], each: &mut impl FnMut(Incoming<'_>)) -> Result<usize> {
    let mut used = 0;
    while let Some((opcode, header, length)) = server_header(&bytes[used..])? {
        let Some(body) = bytes.get(used + header..used + header + length) else { break };
        match opcode {
            TEXT => each(Incoming::Text(body)),
            PING => each(Incoming::Ping(body)),
            CLOSE => each(Incoming::Close(body.first_chunk().map(|code| u16::from_be_bytes(*code)))),
            PONG => {}
            other => bail!("the server sent a frame with opcode {other}"),
        }
        used += header + length;
    }
    Ok(used)
}

/// Opcode, header length and body length, or `None` while the header is incomplete.
fn server_header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & FINAL == 0 || second & 0x80 != 0 {
        bail!("the server sent a fragmented or a masked frame");
    }
    let opcode = first & 0x0f;
    Ok(match second & 0x7f {
        126 => rest.first_chunk().map(|length| (opcode, 4, usize::from(u16::from_be_bytes(*length)))),
        127 => {
            let Some(length) = rest.first_chunk() else { return Ok(None) };
            Some((opcode, 10, usize::try_from(u64::from_be_bytes(*length))?))
        }
        short => Some((opcode, 2, usize::from(short))),
    })
}

/// One complete text frame as a server writes it.
pub fn server_text(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 10);
    header(TEXT, body.len(), 0, &mut frame);
    frame.extend_from_slice(body);
    frame
}

/// Appends one text frame as a client writes it.
pub fn client_text(body: &[u8], into: &mut Vec<u8>) {
    masked(TEXT, body, into);
}

/// Appends the answer to a ping as a client writes it.
pub fn client_pong(body: &[u8], into: &mut Vec<u8>) {
    masked(PONG, body, into);
}

fn masked(opcode: u8, body: &[u8], into: &mut Vec<u8>) {
    header(opcode, body.len(), 0x80, into);
    into.extend_from_slice(&MASK);
    into.extend(body.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[allow(clippy::cast_possible_truncation)] // each arm is bounded by its pattern
fn header(opcode: u8, length: usize, mask_bit: u8, into: &mut Vec<u8>) {
    into.push(FINAL | opcode);
    match length {
        0..=125 => into.push(mask_bit | length as u8),
        126..=0xffff => {
            into.push(mask_bit | 126);
            into.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            into.push(mask_bit | 127);
            into.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// Takes the first complete client frame off the front of `bytes`: its text, unmasked, or `None` for
/// a control frame; the outer `None` while it is incomplete. A close frame is an error, as an end.
///
/// # Errors
/// A frame that is not masked, or a close.
pub fn take_client_frame(bytes: &mut bytes::BytesMut) -> Result<Option<Option<Vec<u8>>>> {
    let [first, second, rest @ ..] = &bytes[..] else { return Ok(None) };
    if second & 0x80 == 0 {
        bail!("a client's frame is not masked");
    }
    let (header, length) = match second & 0x7f {
        126 => match rest.first_chunk() {
            Some(length) => (4, usize::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (10, usize::try_from(u64::from_be_bytes(*length))?),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    let opcode = first & 0x0f;
    if bytes.len() < header + 4 + length {
        return Ok(None);
    }
    let frame = bytes.split_to(header + 4 + length);
    let (mask, body) = (&frame[header..header + 4], &frame[header + 4..]);
    match opcode {
        TEXT => {
            Ok(Some(Some(body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect())))
        }
        CLOSE => bail!("the client closed"),
        _ => Ok(Some(None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(decoder: &mut FrameDecoder, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        decoder
            .feed(bytes, |incoming| {
                if let Incoming::Text(text) = incoming {
                    found.push(String::from_utf8(text.to_vec()).unwrap());
                }
            })
            .unwrap();
        found
    }

    #[test]
    fn every_length_form_survives_every_split() {
        let bodies = ["short".to_owned(), "m".repeat(300), "l".repeat(70_000)];
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| server_text(body.as_bytes())).collect();
        assert_eq!(texts(&mut FrameDecoder::default(), &bytes), bodies);
        for size in [1, 7, 4096] {
            let mut decoder = FrameDecoder::default();
            let found: Vec<String> = bytes.chunks(size).flat_map(|part| texts(&mut decoder, part)).collect();
            assert_eq!(found, bodies, "in parts of {size}");
        }
    }

    #[test]
    fn control_frames_are_told_apart() {
        let mut seen = Vec::new();
        FrameDecoder::default()
            .feed(&[0x89, 1, b'p', 0x8a, 0, 0x88, 2, 0x0f, 0xa0], |incoming| {
                seen.push(format!("{incoming:?}"))
            })
            .unwrap();
        assert_eq!(seen, ["Ping([112])", "Close(Some(4000))"]);
    }

    #[test]
    fn fragments_are_refused() {
        assert!(FrameDecoder::default().feed(&[0x01, 1, b'x'], |_| ()).is_err());
    }

    #[test]
    fn a_client_frame_comes_back_unmasked() {
        for body in ["x".to_owned(), "y".repeat(500), "z".repeat(70_000)] {
            let mut frame = Vec::new();
            client_text(body.as_bytes(), &mut frame);
            let mut bytes = bytes::BytesMut::from(&frame[..frame.len() - 1]);
            assert!(take_client_frame(&mut bytes).unwrap().is_none());
            bytes.extend_from_slice(&frame[frame.len() - 1..]);
            assert_eq!(take_client_frame(&mut bytes).unwrap().unwrap().unwrap(), body.as_bytes());
            assert!(bytes.is_empty());
        }
    }
}
