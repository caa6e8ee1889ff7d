//! Socket.IO over HTTP long-polling, by hand.

use super::{
    Link, Refusal, Said, Why,
    socketio::{connect_packet, end, read, refusal},
};
use crate::harness::{Instance, soon};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// What separates packets in one body.
const SEPARATOR: char = '\u{1e}';

/// A polling session behind its Engine.IO handshake.
pub struct Polls {
    http: reqwest::Client,
    pub url: String,
    pub sid: String,
    pub open: Value,
}

impl Polls {
    /// Begins a session.
    pub async fn begin(instance: &Instance) -> Self {
        let http = reqwest::Client::new();
        let url = instance.url("/socket.io/?EIO=4&transport=polling");
        let body = http.get(&url).send().await.unwrap().text().await.unwrap();
        let open: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
        let sid = open["sid"].as_str().unwrap().to_owned();
        Self { http, url: format!("{url}&sid={sid}"), sid, open }
    }

    /// Sends a body of packets; answers status and text.
    pub async fn post(&self, body: String) -> (u16, String) {
        let response = soon("a POST", self.http.post(&self.url).body(body).send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Polls once; answers status and text.
    pub async fn poll(&self) -> (u16, String) {
        let response = self.http.get(&self.url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

/// A connection to the namespace.
pub struct Polling {
    pub polls: Polls,
    packets: VecDeque<String>,
    last_error: Option<String>,
}

impl Polling {
    /// The next packet.
    pub async fn packet(&mut self) -> String {
        while self.packets.is_empty() {
            let (status, body) = soon("a poll", self.polls.poll()).await;
            assert_eq!(status, 200, "{body}");
            self.packets.extend(body.split(SEPARATOR).map(str::to_owned));
        }
        self.packets.pop_front().unwrap()
    }
}

impl Link for Polling {
    const HTTP_REFUSAL: Option<u16> = None;

    async fn connect(instance: &Instance, token: Option<&str>) -> Result<Self, Refusal> {
        let polls = Polls::begin(instance).await;
        assert_eq!(polls.open["upgrades"], json!(["websocket"]));
        assert_eq!(polls.post(connect_packet(token)).await, (200, "ok".to_owned()));
        let mut polling = Self { polls, packets: VecDeque::new(), last_error: None };
        let packet = polling.packet().await;
        match packet.strip_prefix("44") {
            Some(refused) => Err(refusal(refused)),
            None => {
                assert!(packet.starts_with("40{"), "{packet}");
                Ok(polling)
            }
        }
    }

    async fn ask(&mut self, number: u64, name: &str, payload: Value) {
        let answer = self.polls.post(format!("42{number}{}", json!([name, payload]))).await;
        assert_eq!(answer, (200, "ok".to_owned()));
    }

    async fn hear(&mut self) -> Said {
        loop {
            let packet = self.packet().await;
            match packet.split_at(1) {
                ("1", "") => return Said::End(super::End::TransportClosed),
                ("2", "") => drop(self.polls.post("3".to_owned()).await),
                ("4", message) => return read(message, &mut self.last_error),
                _ => panic!("a packet of a server: {packet}"),
            }
        }
    }

    fn end(why: Why) -> super::End {
        end(why)
    }
}
