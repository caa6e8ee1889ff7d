//! WebSocket frames as a server writes them (RFC 6455, 5.2): made once for all receivers, since none is masked.

/// A final text frame without a mask around `text`.
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(0x81);
    match text.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame
}

/// The bytes before the text in a frame of [`text_frame`].
pub fn head_length(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        for (length, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let text = vec![b'x'; length];
            let frame = text_frame(&text);
            assert_eq!(head_length(&frame), head, "{length}");
            assert_eq!(&frame[head..], text);
        }
        assert_eq!(text_frame(b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(text_frame(&[0; 256])[..4], [0x81, 126, 1, 0]);
    }
}
