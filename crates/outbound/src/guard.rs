//! The guard: from a host and a policy to addresses that may be connected to, and to connections.

use crate::address::{self, Refused};
use futures::future::BoxFuture;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::net::TcpStream;

/// How long the look-up of a name may take.
const LOOK_UP: Duration = Duration::from_secs(5);
/// How long a connection to one address may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How many addresses of a name are tried.
const TRIED: usize = 8;

/// Where a tenant's connections may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// To the internet only.
    #[default]
    Public,
    /// Anywhere: private networks and this machine too.
    Any,
}

impl Policy {
    /// What is set for an environment of an application; where nothing is, private addresses are reached in development
    /// only.
    pub fn of(allow_private: Option<bool>, is_development: bool) -> Self {
        if allow_private.unwrap_or(is_development) { Self::Any } else { Self::Public }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, Error)]
pub enum OutboundError {
    /// The host leads where the policy does not allow.
    #[error("the host leads to {0}, which may not be reached")]
    Refused(#[from] Refused),
    /// The host's name leads nowhere.
    #[error("the host's name cannot be resolved")]
    Unresolved,
    /// Nobody answers.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The server is not who it should be, or does not speak TLS.
    #[error("no trusted connection: {0}")]
    Tls(String),
}

impl From<io::Error> for OutboundError {
    fn from(error: io::Error) -> Self {
        // The text of an error can name the address.
        Self::Unreachable(error.kind().to_string())
    }
}

type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Looks names up and connects, within a policy.
#[derive(Clone)]
pub struct Guard {
    look_up: LookUp,
    policy: Policy,
}

impl Guard {
    /// A guard that asks the system's resolver.
    pub fn new(policy: Policy) -> Self {
        Self::with_look_up(policy, |host| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    /// A guard that asks `look_up`.
    pub fn with_look_up(
        policy: Policy,
        look_up: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self { look_up: Arc::new(look_up), policy }
    }

    /// The policy within which it connects.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The addresses of `host`: a name, or an address with or without brackets. At least one, and all of them may be
    /// connected to; whoever does so connects to these and does not look the name up again.
    ///
    /// # Errors
    /// `Refused` where one of them may not, `Unresolved`.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
        let found = match literal(host) {
            Some(address) => vec![address],
            None => match tokio::time::timeout(LOOK_UP, (self.look_up)(host.to_owned())).await {
                Ok(Ok(found)) => found,
                Ok(Err(_)) | Err(_) => return Err(OutboundError::Unresolved),
            },
        };
        if found.is_empty() {
            return Err(OutboundError::Unresolved);
        }
        if self.policy == Policy::Public {
            found.iter().try_for_each(|address| address::check(*address))?;
        }
        Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    /// Connects to the first address of `host` that answers.
    ///
    /// # Errors
    /// As [`Guard::addresses`], and `Unreachable`.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, OutboundError> {
        let mut last = OutboundError::Unresolved;
        for address in self.addresses(host, port).await?.into_iter().take(TRIED) {
            match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = OutboundError::Unreachable("no answer in time".to_owned()),
            }
        }
        Err(last)
    }
}

/// The address that `host` is, where it is one and no name.
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    /// A resolver that answers one list after the other, and the last for ever.
    fn answering(policy: Policy, answers: &'static [&'static [&'static str]]) -> Guard {
        let asked = Arc::new(AtomicUsize::new(0));
        Guard::with_look_up(policy, move |_| {
            let turn = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
            Box::pin(async move {
                Ok(answers[turn].iter().map(|text| text.parse().expect("an address")).collect())
            })
        })
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_have_to_pass() {
        let both = answering(Policy::Public, &[&["8.8.8.8", "10.0.0.1"]]);
        let refused = both.addresses("db.example", 5432).await;
        assert!(matches!(refused, Err(OutboundError::Refused(Refused::Private))), "{refused:?}");
        let public = answering(Policy::Public, &[&["8.8.8.8", "2606:4700:4700::1111"]]);
        let found = public.addresses("db.example", 5432).await.expect("both pass");
        let expected = ["8.8.8.8:5432", "[2606:4700:4700::1111]:5432"];
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        let any = answering(Policy::Any, &[&["10.0.0.1"]]);
        assert_eq!(any.addresses("db.example", 1).await.expect("allowed").len(), 1);
        let nothing = answering(Policy::Any, &[&[]]);
        assert!(matches!(nothing.addresses("db.example", 1).await, Err(OutboundError::Unresolved)));
    }

    #[tokio::test]
    async fn an_address_is_judged_however_it_is_written() {
        let guard = Guard::new(Policy::Public);
        for host in ["127.0.0.1", "::1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "localhost"] {
            let refused = guard.addresses(host, 80).await;
            assert!(matches!(refused, Err(OutboundError::Refused(_))), "{host}: {refused:?}");
        }
        // Forms that only the resolver understands are judged by what it makes of them.
        for host in ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1"] {
            let refused = guard.addresses(host, 80).await;
            let never = matches!(refused, Err(OutboundError::Refused(_) | OutboundError::Unresolved));
            assert!(never, "{host}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_bound_anew_leads_nowhere_else() {
        let inside = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = inside.local_addr().expect("bound").port();
        // Public when it is judged, this machine when it is asked again.
        let guard = answering(Policy::Public, &[&["8.8.8.8"], &["127.0.0.1"]]);
        let judged = guard.addresses("db.example", port).await.expect("public");
        assert_eq!(judged, [SocketAddr::new([8, 8, 8, 8].into(), port)]);
        let refused = guard.connect("db.example", port).await;
        assert!(matches!(refused, Err(OutboundError::Refused(Refused::Loopback))), "{refused:?}");
        assert!(!matches!(futures::FutureExt::now_or_never(inside.accept()), Some(Ok(_))));
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_does_not_answer() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = server.local_addr().expect("bound").port();
        // Nobody listens on the second of the loopback addresses.
        let guard = answering(Policy::Any, &[&["127.0.0.2", "127.0.0.1"]]);
        let stream = guard.connect("db.example", port).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), server.local_addr().expect("bound"));
    }
}
