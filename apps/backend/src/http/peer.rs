//! From where a request comes: the peer of its connection, or the client for which a trusted proxy makes it.

use auth::Attempt;
use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, HeaderMap, header, request::Parts},
};
use shared_config::Networks;
use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

/// The address of the client, as an extension of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// The address that was found for a request.
    pub fn of(extensions: &Extensions) -> Option<IpAddr> {
        extensions.get::<Self>().map(|address| address.0)
    }

    /// Finds the client of a request that came over a connection with a peer: each proxy adds whom it speaks for at the
    /// end, and what stands before the last one that is trusted may be invented.
    pub(super) fn find(extensions: &Extensions, headers: &HeaderMap, trusted: &Networks) -> Option<Self> {
        let mut client = extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
        let forwarded: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for address in forwarded.into_iter().rev() {
            let Some(address) = forwarded_address(address).filter(|_| trusted.contains(client)) else {
                break;
            };
            client = address;
        }
        Some(Self(client))
    }
}

/// An address with or without a port.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| bare.parse());
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// Where a request comes from.
pub struct Peer {
    /// The peer of the connection.
    address: Option<SocketAddr>,
    client: Option<IpAddr>,
    user_agent: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
        let user_agent = text(&parts.headers, header::USER_AGENT.as_str()).map(str::to_owned);
        Ok(Self { address, client: ClientAddress::of(&parts.extensions), user_agent })
    }
}

impl Peer {
    /// For counting failures and for the list of sessions.
    pub(super) fn attempt(&self) -> Attempt {
        Attempt { address: self.client.map(|client| client.to_string()), user_agent: self.user_agent.clone() }
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
    fn a_trusted_proxy_says_for_whom_it_asks_and_nobody_else_does() {
        let trusted = Networks::parse("10.0.0.0/8, ::1").expect("networks");
        let found = |peer: &str, forwarded: &[&'static str]| {
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(peer.parse::<SocketAddr>().expect("an address")));
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().expect("a value"));
            }
            ClientAddress::find(&extensions, &headers, &trusted).expect("an address").0.to_string()
        };
        assert_eq!(found("192.0.2.1:5", &[]), "192.0.2.1");
        assert_eq!(
            found("192.0.2.1:5", &["198.51.100.7"]),
            "192.0.2.1",
            "who is not trusted is not believed"
        );
        assert_eq!(found("10.1.1.1:5", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(found("10.1.1.1:5", &["6.6.6.6, 198.51.100.7, 10.2.2.2"]), "198.51.100.7");
        assert_eq!(found("10.1.1.1:5", &["6.6.6.6", "198.51.100.7:443"]), "198.51.100.7");
        assert_eq!(found("[::1]:5", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(found("10.1.1.1:5", &["198.51.100.7, unknown"]), "10.1.1.1");
        assert_eq!(found("10.1.1.1:5", &["10.3.3.3"]), "10.3.3.3", "a client among the proxies");
    }

    #[test]
    fn only_programs_on_this_machine() {
        let peer = |address: &str| Peer { address: address.parse().ok(), client: None, user_agent: None };
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
