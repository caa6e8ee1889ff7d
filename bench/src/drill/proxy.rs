//! A load balancer as small as it can be: TCP, round robin, past servers that refuse.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::timeout;

/// How long a server may take to accept before the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The proxy. Dropping it closes all its connections.
pub struct Proxy {
    address: SocketAddr,
    serving: AbortHandle,
}

impl Proxy {
    /// Listens on a free loopback port, for servers on these ports.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn start(servers: Vec<u16>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let serving = spawn_local(serve(listener, servers)).abort_handle();
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, servers: Vec<u16>) {
    let turn = Cell::new(0_usize);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Without file descriptors left it fails at once; clients try again.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut order = servers.clone();
        order.rotate_left(turn.get() % servers.len().max(1));
        turn.set(turn.get().wrapping_add(1));
        connections.spawn_local(carry(client, order));
    }
}

/// Carries one connection to the first server that accepts; closes it where none does.
async fn carry(mut client: TcpStream, order: Vec<u16>) {
    for port in order {
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(("127.0.0.1", port))).await;
        let Ok(Ok(mut server)) = connected else { continue };
        // A delay of small packets would be measured as the platform's.
        let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
        // An error is the end of the connection, which both sides see.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn server(answer: &'static [u8]) -> (u16, AbortHandle) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
            }
        });
        (port, serving.abort_handle())
    }

    async fn ask(proxy: &Proxy) -> String {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn connections_go_round_and_past_the_dead() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let ((one, _), (two, serving)) = (server(b"one").await, server(b"two").await);
                let proxy = Proxy::start(vec![one, two]).await.unwrap();
                let mut seen = [ask(&proxy).await, ask(&proxy).await];
                seen.sort();
                assert_eq!(seen, ["one", "two"]);
                serving.abort();
                tokio::task::yield_now().await;
                assert_eq!([ask(&proxy).await, ask(&proxy).await], ["one", "one"]);
            })
            .await;
    }
}
