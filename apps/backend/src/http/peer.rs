//! From where a request comes.

use auth::Attempt;
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use std::{convert::Infallible, net::SocketAddr};

/// The peer of the connection; forwarding headers are not believed.
pub struct Peer {
    address: Option<SocketAddr>,
    user_agent: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let user_agent = text(&parts.headers, header::USER_AGENT.as_str()).map(str::to_owned);
        Ok(Self { address, user_agent })
    }
}

impl Peer {
    /// For counting failures and for the list of sessions.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt {
            address: self.address.map(|address| address.ip().to_string()),
            user_agent: self.user_agent.clone(),
        }
    }

    /// Whether a program on this machine asks for itself: over loopback, by a name of this machine, not for a
    /// page of elsewhere, and not for somebody behind a proxy.
    pub(super) fn is_this_machine(&self, headers: &HeaderMap) -> bool {
        let loopback = self.address.is_some_and(|address| address.ip().is_loopback());
        let host = text(headers, "host").is_some_and(is_local_authority);
        let origin = match headers.get(header::ORIGIN) {
            None => true,
            Some(_) => text(headers, "origin")
                .and_then(|o| o.split_once("://"))
                .is_some_and(|(_, a)| is_local_authority(a)),
        };
        let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
        loopback && host && origin && !forwarded.iter().any(|name| headers.contains_key(*name))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn is_local_authority(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value")))
            .collect()
    }

    #[test]
    fn only_programs_on_this_machine() {
        let peer = |address: &str| Peer { address: address.parse().ok(), user_agent: None };
        let here = peer("127.0.0.1:5000");
        assert!(here.is_this_machine(&headers(&[("host", "localhost:3000")])));
        assert!(
            here.is_this_machine(&headers(&[("host", "[::1]:3000"), ("origin", "http://localhost:5173")]))
        );
        for refused in [
            headers(&[]),
            headers(&[("host", "evil.example")]),
            headers(&[("host", "localhost.evil.example:3000")]),
            headers(&[("host", "localhost"), ("origin", "https://evil.example")]),
            headers(&[("host", "localhost"), ("origin", "null")]),
            headers(&[("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]),
        ] {
            assert!(!here.is_this_machine(&refused), "{refused:?}");
        }
        assert!(!peer("10.0.0.1:5000").is_this_machine(&headers(&[("host", "localhost")])));
        assert!(!peer("").is_this_machine(&headers(&[("host", "localhost")])));
    }
}
