//! The sequence number that every measured message carries in its payload, as `"seq":17` or `"seq":"0017"`.

const KEY: &[u8] = b"\"seq\":";

/// The sequence number in a message, found without parsing the JSON around it.
pub fn sequence_in(text: &[u8]) -> Option<u64> {
    // Searching from the end: the payload stands behind the envelope's fixed fields.
    let at = text.windows(KEY.len()).rposition(|window| window == KEY)?;
    let digits = &text[at + KEY.len()..];
    let digits = digits.strip_prefix(b"\"").unwrap_or(digits);
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

/// A JSON object of exactly `bytes` bytes that holds the sequence number, or of the least that does.
pub fn payload(sequence: u64, bytes: usize) -> String {
    padded(format!("{{\"seq\":\"{sequence:012}\""), bytes)
}

/// The same with a `userId`, for filters.
pub fn user_payload(sequence: u64, user: &str, bytes: usize) -> String {
    padded(format!("{{\"userId\":\"{user}\",\"seq\":\"{sequence:012}\""), bytes)
}

fn padded(mut object: String, bytes: usize) -> String {
    const AROUND_PAD: usize = ",\"pad\":\"\"}".len();
    let pad = bytes.saturating_sub(object.len() + AROUND_PAD);
    if pad > 0 {
        object.push_str(",\"pad\":\"");
        object.extend(std::iter::repeat_n('x', pad));
        object.push('"');
    }
    object.push('}');
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_and_strings() {
        assert_eq!(sequence_in(br#"{"type":"event","data":{"payload":{"seq":41}}}"#), Some(41));
        assert_eq!(sequence_in(br#"42["event",{"payload":{"seq":"000000000042","pad":"x"}}]"#), Some(42));
        assert_eq!(sequence_in(br#"{"type":"welcome"}"#), None);
        assert_eq!(sequence_in(br#"{"seq":"none"}"#), None);
        assert_eq!(sequence_in(br#"{"seq":"#), None);
    }

    #[test]
    fn payload_has_the_size_and_is_json() {
        for bytes in [64, 128, 1024] {
            let text = payload(7, bytes);
            assert_eq!(text.len(), bytes);
            assert_eq!(sequence_in(text.as_bytes()), Some(7));
            assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object());
        }
        let text = user_payload(9, "u77", 128);
        assert_eq!(text.len(), 128);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["userId"], "u77");
    }

    #[test]
    fn a_payload_too_small_for_padding_is_the_bare_object() {
        assert_eq!(payload(1, 0), r#"{"seq":"000000000001"}"#);
    }
}
