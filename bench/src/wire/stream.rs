//! Server-sent events over an HTTP/1.1 chunked body.
//!
//! Only `data:` lines matter here; comments, ids and event names are skipped. A body without
//! `transfer-encoding: chunked` is read as it comes.

use anyhow::{Context, Result};

use super::Incoming;

/// Undoes the chunks and splits the lines.
#[derive(Debug)]
pub struct StreamDecoder {
    chunk: Chunk,
    partial_size: Vec<u8>,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// The body is not chunked.
    None,
    /// Reading the hexadecimal size line.
    Size,
    /// Bytes of data still to come.
    Data(usize),
    /// Bytes of the line end after the data still to come.
    End(usize),
}

impl StreamDecoder {
    /// A decoder for a body whose head said `chunked` or not.
    pub fn new(chunked: bool) -> Self {
        let chunk = if chunked { Chunk::Size } else { Chunk::None };
        Self { chunk, partial_size: Vec::new(), line: Vec::new() }
    }

    /// Takes the next bytes and calls `each` for every complete `data:` line.
    ///
    /// # Errors
    /// A malformed chunk size.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Incoming<'_>)) -> Result<()> {
        while !bytes.is_empty() {
            match self.chunk {
                Chunk::None => {
                    self.lines(bytes, &mut each);
                    bytes = &[];
                }
                Chunk::Size => bytes = self.size(bytes, &mut each)?,
                Chunk::Data(left) => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    self.lines(data, &mut each);
                    self.chunk =
                        if data.len() == left { Chunk::End(2) } else { Chunk::Data(left - data.len()) };
                    bytes = rest;
                }
                Chunk::End(left) => {
                    let skipped = left.min(bytes.len());
                    self.chunk = if skipped == left { Chunk::Size } else { Chunk::End(left - skipped) };
                    bytes = &bytes[skipped..];
                }
            }
        }
        Ok(())
    }

    fn size<'a>(&mut self, bytes: &'a [u8], each: &mut impl FnMut(Incoming<'_>)) -> Result<&'a [u8]> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.partial_size.extend_from_slice(bytes);
            return Ok(&[]);
        };
        self.partial_size.extend_from_slice(&bytes[..end]);
        let text = std::str::from_utf8(&self.partial_size)?.trim();
        let size = usize::from_str_radix(text, 16).with_context(|| format!("chunk size {text:?}"))?;
        self.partial_size.clear();
        self.chunk = Chunk::Data(size);
        if size == 0 {
            each(Incoming::Close(None));
        }
        Ok(&bytes[end + 1..])
    }

    fn lines(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Incoming<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                data_line(&bytes[..end], each);
            } else {
                self.line.extend_from_slice(&bytes[..end]);
                data_line(&self.line, each);
                self.line.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
    }
}

fn data_line(line: &[u8], each: &mut impl FnMut(Incoming<'_>)) {
    if let Some(data) = line.strip_prefix(b"data:") {
        each(Incoming::Text(data.strip_prefix(b" ").unwrap_or(data).trim_ascii_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(decoder: &mut StreamDecoder, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        decoder
            .feed(bytes, |incoming| match incoming {
                Incoming::Text(text) => found.push(String::from_utf8(text.to_vec()).unwrap()),
                other => found.push(format!("{other:?}")),
            })
            .unwrap();
        found
    }

    #[test]
    fn chunks_and_lines_may_break_anywhere() {
        let body = b"1a\r\nid: 1\nevent: event\ndata: {\r\nB\r\n\"seq\":7}\n\nd\r\n4\r\nata:\r\n4\r\n ok\n\r\n0\r\n\r\n";
        let expected = ["{\"seq\":7}", "ok", "Close(None)"];
        assert_eq!(texts(&mut StreamDecoder::new(true), body), expected);
        for size in 1..12 {
            let mut decoder = StreamDecoder::new(true);
            let found: Vec<String> = body.chunks(size).flat_map(|part| texts(&mut decoder, part)).collect();
            assert_eq!(found, expected, "in parts of {size}");
        }
    }

    #[test]
    fn a_plain_body_is_lines() {
        assert_eq!(texts(&mut StreamDecoder::new(false), b": hello\ndata:a\r\n\r\ndata: b\n\n"), ["a", "b"]);
    }

    #[test]
    fn a_wrong_chunk_size_is_an_error() {
        assert!(StreamDecoder::new(true).feed(b"xyz\r\n", |_| ()).is_err());
    }
}
