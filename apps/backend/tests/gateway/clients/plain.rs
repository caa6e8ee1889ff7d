//! Plain WebSocket.

use super::{End, Link, Refusal, Said, Why};
use crate::harness::{Instance, soon};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http},
};

/// A plain WebSocket behind its `welcome`.
pub struct Plain {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub welcome: Value,
}

/// The refusal in an HTTP answer with an error object.
pub fn refusal(status: u16, body: &[u8]) -> Refusal {
    let error: Value = serde_json::from_slice(body).unwrap();
    let class = if status == 401 { "UnauthorizedError" } else { error["error"].as_str().unwrap() };
    assert_eq!(error["error"], class);
    assert!(error["message"].is_string());
    Refusal { status: Some(status), code: error["code"].as_str().unwrap().to_owned() }
}

impl Plain {
    /// Connects with a token in the query.
    pub async fn open(instance: &Instance, token: &str) -> Self {
        Self::connect(instance, Some(token)).await.unwrap()
    }

    /// Connects with a request of the caller's making.
    pub async fn request(
        instance: &Instance,
        path: &str,
        headers: &[(http::HeaderName, String)],
    ) -> Result<(Self, http::HeaderMap), Refusal> {
        let mut request = format!("ws://{}{path}", instance.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok((socket, response)) => {
                let mut plain = Self { socket, welcome: Value::Null };
                plain.welcome = plain.frame().await.unwrap();
                assert_eq!(plain.welcome["type"], "welcome");
                Ok((plain, response.headers().clone()))
            }
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err(refusal(response.status().as_u16(), &body))
            }
            Err(other) => panic!("an upgrade or a refusal: {other}"),
        }
    }

    /// Sends a frame as it is.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// The next frame; a close's code where it is the end.
    pub async fn frame(&mut self) -> Result<Value, u16> {
        loop {
            match soon("a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.unwrap().code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text frame or a close with a code: {other:?}"),
            }
        }
    }

    /// Sends a frame and answers what comes next.
    pub async fn ask_frame(&mut self, frame: Value) -> Value {
        self.send(frame).await;
        self.frame().await.unwrap()
    }
}

impl Link for Plain {
    const HTTP_REFUSAL: Option<u16> = Some(401);

    async fn connect(instance: &Instance, token: Option<&str>) -> Result<Self, Refusal> {
        let path = token.map_or("/ws".to_owned(), |token| format!("/ws?token={token}"));
        Self::request(instance, &path, &[]).await.map(|(plain, _)| plain)
    }

    async fn ask(&mut self, number: u64, name: &str, payload: Value) {
        let mut frame = json!({ "type": name, "ref": number });
        frame.as_object_mut().unwrap().extend(payload.as_object().unwrap().clone());
        self.send(frame).await;
    }

    async fn hear(&mut self) -> Said {
        let frame = match self.frame().await {
            Ok(frame) => frame,
            Err(code) => return Said::End(End::Closed(code)),
        };
        let kind = frame["type"].as_str().unwrap();
        if let Some(to) = frame["ref"].as_u64() {
            let result = if kind == "error" { Err(frame) } else { Ok(frame) };
            return Said::Answer { to, result };
        }
        if kind == "event" {
            assert_eq!(frame["topic"], frame["data"]["topic"]);
            let subscriptions = frame.get("subscriptionIds").cloned();
            return Said::Event { event: frame["data"].clone(), subscriptions };
        }
        Said::Named(kind.to_owned(), frame)
    }

    fn end(why: Why) -> End {
        End::Closed(match why {
            Why::Stopping => 1001,
            Why::Slow => 4000,
            Why::Revoked => 4001,
            Why::Expired => 1008,
        })
    }
}
