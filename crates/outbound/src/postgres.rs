//! A way to a PostgreSQL server for clients that would resolve its name themselves.
//!
//! A [`Tunnel`] listens on this machine. Whoever connects to it is led to an address of the server that the guard has
//! checked, over TLS that is verified against the server's *name*; the client itself speaks plainly, as with
//! `sslmode=disable`. What passes between it and the client stays on this machine.

mod tls;

pub use tls::SslMode;

use crate::{Guard, OutboundError};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// How long it may take until a client may speak.
const OPEN: Duration = Duration::from_secs(15);
/// How many clients are led at a time; others wait.
const CLIENTS: usize = 64;
/// How long a silent connection is left alone before it is looked at, and how often then.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// The server.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub ssl_mode: SslMode,
    /// A certificate to trust beside those that browsers trust, PEM.
    pub ca: Option<String>,
}

/// A way to a server; ends with the value, and so do the connections over it.
pub struct Tunnel {
    port: u16,
    failure: Arc<Mutex<Option<OutboundError>>>,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// Opens a way to `destination`. The server is connected to when a client comes.
    ///
    /// # Errors
    /// `Refused` or `Unresolved` at once where it leads nowhere now; `Tls` where the CA cannot be read.
    pub async fn open(guard: Guard, destination: Destination) -> Result<Self, OutboundError> {
        guard.addresses(&destination.host, destination.port).await?;
        let connector = tls::Connector::new(&destination)?;
        let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await?;
        let port = listener.local_addr()?.port();
        let failure = Arc::new(Mutex::new(None));
        let way = Arc::new(Way { guard, destination, connector, failure: failure.clone() });
        Ok(Self { port, failure, task: tokio::spawn(accept(listener, way)) })
    }

    /// The port on 127.0.0.1 on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What kept the last client from being led to the server, once.
    pub fn failure(&self) -> Option<OutboundError> {
        self.failure.lock().take()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Way {
    guard: Guard,
    destination: Destination,
    connector: tls::Connector,
    failure: Arc<Mutex<Option<OutboundError>>>,
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    // Aborted with this task.
    let mut clients = JoinSet::new();
    loop {
        while clients.len() >= CLIENTS {
            clients.join_next().await;
        }
        match listener.accept().await {
            Ok((client, _)) => drop(clients.spawn(lead(way.clone(), client))),
            Err(error) => {
                tracing::debug!(%error, "a client of a tunnel could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while clients.try_join_next().is_some() {}
    }
}

/// Leads one client to the server, for as long as both stay.
async fn lead(way: Arc<Way>, mut client: TcpStream) {
    let opened = match tokio::time::timeout(OPEN, way.open()).await {
        Ok(opened) => opened,
        Err(_) => Err(OutboundError::Unreachable("no answer in time".to_owned())),
    };
    match opened {
        Ok(mut server) => {
            // A delay for each small answer otherwise.
            let _ = client.set_nodelay(true);
            // However it ends, both sides see it.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        // Said before the client sees its connection end.
        Err(error) => *way.failure.lock() = Some(error),
    }
}

#[cfg(test)]
mod tests;

impl Way {
    async fn open(&self) -> Result<tls::Stream, OutboundError> {
        let stream = self.guard.connect(&self.destination.host, self.destination.port).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_EVERY);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&stream).set_tcp_user_timeout(Some(KEEPALIVE))?;
        self.connector.connect(stream).await
    }
}
