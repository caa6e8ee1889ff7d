//! Socket.IO over a WebSocket, by hand.

use super::{End, Link, Refusal, Said, Why};
use crate::harness::{Instance, soon};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// A connection to the namespace.
pub struct SocketIo {
    pub packets: Packets,
    last_error: Option<String>,
}

/// A WebSocket of Engine.IO packets.
pub struct Packets(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Packets {
    /// Opens the WebSocket; `query` is what follows `transport=websocket`.
    pub async fn open(instance: &Instance, query: &str) -> Self {
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket{query}", instance.address);
        Self(connect_async(url).await.unwrap().0)
    }

    /// Sends a packet.
    pub async fn send(&mut self, packet: &str) {
        self.0.send(Message::text(packet)).await.unwrap();
    }

    /// The next packet; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            match soon("a packet", self.0.next()).await {
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return None,
                other => panic!("a packet or the end: {other:?}"),
            }
        }
    }

    /// The next packet.
    pub async fn packet(&mut self) -> String {
        self.next().await.expect("a packet")
    }
}

/// What a Socket.IO message says.
///
/// # Panics
/// Where it is none of those that a server of this protocol sends.
pub fn read(message: &str, last_error: &mut Option<String>) -> Said {
    let digits = |text: &str| text.find('[').unwrap_or_else(|| panic!("arguments: {text}"));
    if message == "1" {
        return Said::End(End::Disconnected(last_error.take()));
    }
    let (kind, rest) = message.split_at(1);
    let at = digits(rest);
    let arguments: Vec<Value> = serde_json::from_str(&rest[at..]).unwrap();
    if kind == "3" {
        let mut body = arguments[0].clone();
        assert_eq!(arguments.len(), 1);
        let ok = body["ok"].as_bool().unwrap();
        body.as_object_mut().unwrap().remove("ok");
        return Said::Answer {
            to: rest[..at].parse().unwrap(),
            result: if ok { Ok(body) } else { Err(body) },
        };
    }
    assert_eq!((kind, at), ("2", 0), "an event that asks for no answer: {message}");
    let name = arguments[0].as_str().unwrap();
    if name == "event" {
        return Said::Event { event: arguments[1].clone(), subscriptions: arguments.get(2).cloned() };
    }
    if name == "error" {
        assert_eq!(arguments[1]["ok"], false);
        *last_error = Some(arguments[1]["code"].as_str().unwrap().to_owned());
    }
    Said::Named(name.to_owned(), arguments[1].clone())
}

/// The refusal in a `connect_error`.
pub fn refusal(body: &str) -> Refusal {
    let body: Value = serde_json::from_str(body).unwrap();
    let code = body["data"]["code"].as_str().unwrap().to_owned();
    let reason = body["data"]["reason"].as_str().unwrap();
    assert_eq!(body["message"], format!("{code}: {reason}"));
    Refusal { status: None, code }
}

/// The packet that connects to the namespace.
pub fn connect_packet(token: Option<&str>) -> String {
    token.map_or("40".to_owned(), |token| format!("40{}", json!({ "token": token })))
}

/// The end as Socket.IO's clients are told it.
pub fn end(why: Why) -> End {
    let code = match why {
        Why::Stopping => return End::TransportClosed,
        Why::Slow => "SLOW_CONSUMER",
        Why::Revoked => "TOKEN_REVOKED",
        Why::Expired => "TOKEN_EXPIRED",
    };
    End::Disconnected(Some(code.to_owned()))
}

impl SocketIo {
    /// Connects.
    pub async fn open(instance: &Instance, token: &str) -> Self {
        Self::connect(instance, Some(token)).await.unwrap()
    }

    /// Sends an event without asking for an answer.
    pub async fn emit(&mut self, name: &str, payload: Value) {
        self.packets.send(&format!("42{}", json!([name, payload]))).await;
    }
}

impl Link for SocketIo {
    const HTTP_REFUSAL: Option<u16> = None;

    async fn connect(instance: &Instance, token: Option<&str>) -> Result<Self, Refusal> {
        let mut packets = Packets::open(instance, "").await;
        let open: Value = serde_json::from_str(packets.packet().await.strip_prefix('0').unwrap()).unwrap();
        assert_eq!((&open["pingInterval"], &open["pingTimeout"]), (&json!(25_000), &json!(20_000)));
        packets.send(&connect_packet(token)).await;
        let packet = packets.packet().await;
        if let Some(refused) = packet.strip_prefix("44") {
            return Err(refusal(refused));
        }
        let connected: Value = serde_json::from_str(packet.strip_prefix("40").unwrap()).unwrap();
        assert!(connected["sid"].is_string());
        Ok(Self { packets, last_error: None })
    }

    async fn ask(&mut self, number: u64, name: &str, payload: Value) {
        self.packets.send(&format!("42{number}{}", json!([name, payload]))).await;
    }

    async fn hear(&mut self) -> Said {
        loop {
            let Some(packet) = self.packets.next().await else { return Said::End(End::TransportClosed) };
            match packet.split_at(1) {
                ("2", "") => self.packets.send("3").await,
                ("4", message) => return read(message, &mut self.last_error),
                _ => panic!("a packet of a server: {packet}"),
            }
        }
    }

    fn end(why: Why) -> End {
        end(why)
    }
}
