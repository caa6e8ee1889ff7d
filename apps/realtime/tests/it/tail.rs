//! `realtime tail` against a server that goes away and comes back before its own parts do.

use crate::{PATIENCE, folder, realtime};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};

/// A server on a port of its own, one connection at a time.
struct Server(TcpListener);

impl Server {
    async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// The next connection and its request to subscribe.
    async fn subscriber(&self) -> (WebSocketStream<TcpStream>, Value) {
        let (stream, _) = timeout(PATIENCE, self.0.accept()).await.expect("a connection").unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let request = timeout(PATIENCE, socket.next()).await.expect("a request").unwrap().unwrap();
        (socket, serde_json::from_str(request.to_text().unwrap()).unwrap())
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

fn event(offset: u64) -> Value {
    json!({
        "id": format!("evt_{offset}"), "topic": "a.b", "source": "socket", "type": "message",
        "payload": { "n": offset }, "metadata": { "timestamp": 1, "epoch": "e", "offset": offset },
    })
}

#[tokio::test]
async fn what_passes_by_itself_is_waited_for() {
    let (folder, server) = (folder(), Server::listen().await);
    let mut command = realtime(folder.path());
    command.args(["tail", "a.b", "--json", "--count", "2", "--url", &server.url(), "--token", "t"]);
    let tail = tokio::spawn(async move { timeout(PATIENCE, command.output()).await });

    let (mut socket, request) = server.subscriber().await;
    assert_eq!(request.get("since"), None);
    let subscribed = json!({ "type": "subscribed", "ref": 1, "subscriptionId": "sub_1", "topic": "a.b",
        "epoch": "e", "offset": 3, "recovered": false, "events": [] });
    say(&mut socket, subscribed).await;
    say(&mut socket, json!({ "type": "event", "topic": "a.b", "data": event(4) })).await;
    drop(socket);

    // It is back, and its database is not.
    let (mut socket, request) = server.subscriber().await;
    assert_eq!(request["since"], json!({ "epoch": "e", "offset": 4 }));
    let away = json!({ "type": "error", "ref": 1, "ok": false, "error": "UnavailableError",
        "message": "the event log does not answer; try again", "code": "UNAVAILABLE" });
    say(&mut socket, away).await;
    let gone = timeout(PATIENCE, socket.next()).await.expect("the client leaves");
    assert!(matches!(gone, None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed))), "{gone:?}");
    drop(socket);

    let (mut socket, request) = server.subscriber().await;
    assert_eq!(request["since"], json!({ "epoch": "e", "offset": 4 }));
    let subscribed = json!({ "type": "subscribed", "ref": 1, "subscriptionId": "sub_1", "topic": "a.b",
        "epoch": "e", "offset": 5, "recovered": true, "events": [event(5)] });
    say(&mut socket, subscribed).await;

    let output = tail.await.unwrap().expect("the tail ends").unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let printed: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed, [event(4), event(5)]);
}

#[tokio::test]
async fn what_is_no_server_of_ours_is_said_as_it_answers() {
    let (folder, server) = (folder(), Server::listen().await);
    let url = server.url();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = server.0.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    });
    let output = realtime(folder.path()).args(["tail", "a.b", "--url", &url]).output().await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("404"), "{errors}");
}
