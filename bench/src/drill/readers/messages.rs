//! Server-sent events with their ids, as an `EventSource` reads them (HTML Living Standard, 9.2.6).
//!
//! Pure: bytes in, messages out. The measurements' own decoder skips ids, which here are what counts.

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Its `id`, where it had one.
    pub id: Option<String>,
    /// Its `event`, empty where it had none.
    pub event: String,
    /// Its `data`.
    pub data: String,
}

/// Splits a body into messages. A message that the end of the body cuts off is none.
#[derive(Debug, Default)]
pub struct MessageDecoder {
    partial: Vec<u8>,
    message: Message,
}

impl MessageDecoder {
    /// Takes the next bytes; returns the messages that are complete with them.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut complete = Vec::new();
        self.partial.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(length) = self.partial[from..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.partial[from..from + length]).into_owned();
            from += length + 1;
            complete.extend(self.line(line.trim_end_matches('\r')));
        }
        self.partial.drain(..from);
        complete
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return (message != Message::default()).then_some(message);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.message.id = Some(value.to_owned()),
            "event" => self.message.event = value.to_owned(),
            "data" => {
                if !self.message.data.is_empty() {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // Comments and what is not known.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        b": hello\n\nid: c1\nevent: event\ndata: {\"a\":\ndata: 1}\n\nid: c2\r\ndata: beat\r\n\r\nid: c3\ndata: cut";

    #[test]
    fn messages_may_break_anywhere_and_a_cut_one_does_not_count() {
        let expected = [
            Message { id: Some("c1".to_owned()), event: "event".to_owned(), data: "{\"a\":\n1}".to_owned() },
            Message { id: Some("c2".to_owned()), event: String::new(), data: "beat".to_owned() },
        ];
        for size in 1..BODY.len() {
            let mut decoder = MessageDecoder::default();
            let found: Vec<Message> = BODY.chunks(size).flat_map(|part| decoder.feed(part)).collect();
            assert_eq!(found, expected, "in parts of {size}");
        }
    }
}
