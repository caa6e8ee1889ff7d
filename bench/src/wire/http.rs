//! HTTP/1.1 over a connection that stays open: a request written out, an answer told apart from what follows.

use anyhow::{Context, Result, bail, ensure};

const MAX_HEAD: usize = 16 * 1024;

/// A request with a JSON body, as it goes over the connection.
pub fn json_request(method: &str, path: &str, host: &str, token: Option<&str>, body: &str) -> Vec<u8> {
    let authorization = token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Where an answer lies in the bytes that were read.
#[derive(Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its status.
    pub status: u16,
    /// Where its body begins.
    pub body: usize,
    /// Where it ends.
    pub end: usize,
}

/// The answer at the front of `bytes`, or `None` while it is incomplete.
///
/// # Errors
/// What is no answer, or one without a length: the servers measured here send none.
pub fn answer(bytes: &[u8]) -> Result<Option<Extent>> {
    let Some(body) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        ensure!(bytes.len() < MAX_HEAD, "an answer's head is too long");
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..body]).context("an answer's head is not text")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("{:?} is no HTTP answer", head.lines().next()))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value.trim().parse::<usize>());
    let Some(length) = length.transpose()? else { bail!("an answer has no length: {head}") };
    let end = body + length;
    Ok((bytes.len() >= end).then_some(Extent { status, body, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nx-request-id: req_1\r\n\r\n{}HTTP/1.1 200 OK\r\n";

    #[test]
    fn an_answer_is_complete_with_its_body() {
        let complete = answer(ANSWER).unwrap().unwrap();
        assert_eq!((complete.status, &ANSWER[complete.body..complete.end]), (201, b"{}".as_slice()));
        for end in 0..complete.end {
            assert_eq!(answer(&ANSWER[..end]).unwrap(), None, "{end}");
        }
    }

    #[test]
    fn what_cannot_be_told_apart_is_an_error() {
        assert!(answer(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(answer(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(answer(&[b'x'; MAX_HEAD]).is_err());
    }

    #[test]
    fn a_request_says_the_length_of_its_body() {
        let request = String::from_utf8(json_request("PATCH", "/a", "h:1", Some("t"), "{\"ü\":1}")).unwrap();
        assert!(
            request.starts_with("PATCH /a HTTP/1.1\r\nhost: h:1\r\nauthorization: Bearer t\r\n"),
            "{request}"
        );
        assert!(request.ends_with("content-length: 8\r\n\r\n{\"ü\":1}"), "{request}");
    }
}
