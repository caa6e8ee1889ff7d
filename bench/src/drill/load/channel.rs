//! A channel over both instances: members that are present, one who speaks, and what of it was heard.
//!
//! Messages of a channel have no history, and nothing is promised of those that a death takes with it: they are only
//! counted. The members also show how long a dead backend's clients stay present.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Going, Pace};
use crate::link::{Endpoint, Link, Transport};
use crate::rows::Rest;

const CHANNEL: &str = "drill:room";
/// So many members at each backend.
const MEMBERS: usize = 2;
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(200);

/// One member, connected to one backend whatever happens.
#[derive(Debug, Default)]
struct Member {
    backend: usize,
    /// While it is connected and present.
    socket: Option<String>,
    heard: BTreeSet<u64>,
}

/// The channel. Dropping it closes its connections.
pub struct Channel {
    members: Vec<Rc<RefCell<Member>>>,
    sent: Rc<RefCell<BTreeSet<u64>>>,
    tasks: JoinSet<()>,
}

impl Channel {
    /// Lets members join at each backend.
    pub fn open(backends: &[Endpoint]) -> Self {
        let mut channel = Self { members: Vec::new(), sent: Rc::default(), tasks: JoinSet::new() };
        for (backend, endpoint) in backends.iter().enumerate() {
            for _ in 0..MEMBERS {
                let member = Rc::new(RefCell::new(Member { backend, ..Member::default() }));
                channel.members.push(Rc::clone(&member));
                channel.tasks.spawn_local(stay(endpoint.clone(), member));
            }
        }
        channel
    }

    /// Lets somebody speak, `rate` times a second.
    pub fn speak(&mut self, endpoint: &Endpoint, rate: f64, going: &Going) {
        self.tasks.spawn_local(speak(endpoint.clone(), rate, Rc::clone(&self.sent), going.clone()));
    }

    /// Whether all members of a backend are present.
    pub fn is_full(&self, backend: usize) -> bool {
        self.sockets(backend).len() == MEMBERS
    }

    /// The connections of the members at a backend.
    pub fn sockets(&self, backend: usize) -> BTreeSet<String> {
        let members = self.members.iter().map(|member| member.borrow());
        members
            .filter(|member| member.backend == backend)
            .filter_map(|member| member.socket.clone())
            .collect()
    }

    /// Who is present, as a backend says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn present(rest: &Rest) -> Result<BTreeSet<String>> {
        let members = rest.get(&format!("/api/socket/channels/{CHANNEL}/members?limit=500")).await?;
        let sockets = members.as_array().context("members are a list")?.iter();
        Ok(sockets.filter_map(|member| member["socketId"].as_str().map(str::to_owned)).collect())
    }

    /// What was heard.
    pub fn outcome(&self) -> ChannelOutcome {
        let members: Vec<usize> = self.members.iter().map(|member| member.borrow().heard.len()).collect();
        ChannelOutcome {
            sent: self.sent.borrow().len(),
            heard_most: members.iter().copied().max().unwrap_or(0),
            heard_least: members.iter().copied().min().unwrap_or(0),
        }
    }
}

/// What was heard in the channel.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelOutcome {
    /// Messages that were acknowledged to who sent them.
    pub sent: usize,
    /// What the member who heard most of them heard.
    pub heard_most: usize,
    /// What the member who heard least of them heard.
    pub heard_least: usize,
}

impl std::fmt::Display for ChannelOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, heard_most, heard_least } = self;
        write!(
            f,
            "channel messages (nothing promised): sent {sent}, heard {heard_least} to {heard_most} a member"
        )
    }
}

/// Stays in the channel until dropped, one connection after the other.
async fn stay(endpoint: Endpoint, member: Rc<RefCell<Member>>) {
    loop {
        // Why a connection ended matters to nobody here.
        let _ = listen(&endpoint, &member).await;
        member.borrow_mut().socket = None;
        sleep(RETRY).await;
    }
}

async fn listen(endpoint: &Endpoint, member: &Rc<RefCell<Member>>) -> Result<()> {
    let mut link = Link::open(endpoint, Transport::Ws, None).await?;
    let welcome: Value = serde_json::from_slice(&timeout(ANSWER_LIMIT, link.next_text()).await??)?;
    let socket = welcome["socketId"].as_str().context("a welcome names the socket")?.to_owned();
    link.writer().queue_request("channel:join", &format!("\"channel\":\"{CHANNEL}\""), Some(1));
    let fields = format!("\"channel\":\"{CHANNEL}\",\"data\":{{\"drill\":true}}");
    link.writer().queue_request("presence:enter", &fields, Some(2));
    link.writer().flush().await?;
    loop {
        let frame: Value = serde_json::from_slice(&link.next_text().await?)?;
        match (frame["type"].as_str(), frame["ref"].as_u64()) {
            (Some("error"), _) => bail!("refused"),
            (Some("ok"), Some(2)) => member.borrow_mut().socket = Some(socket.clone()),
            (Some("message"), _) => {
                if let Some(number) = frame["data"]["number"].as_u64() {
                    member.borrow_mut().heard.insert(number);
                }
            }
            _ => {}
        }
    }
}

async fn speak(endpoint: Endpoint, rate: f64, sent: Rc<RefCell<BTreeSet<u64>>>, going: Going) {
    let mut pace = Pace::new(rate);
    let mut link = None;
    let mut number = 0;
    loop {
        pace.next(1).await;
        if !going.is_on() {
            return;
        }
        number += 1;
        link = match say(link.take(), &endpoint, number).await {
            Ok(open) => {
                sent.borrow_mut().insert(number);
                Some(open)
            }
            // Not repeated: nothing is promised of it.
            Err(_) => {
                sleep(RETRY).await;
                None
            }
        };
    }
}

async fn say(link: Option<Link>, endpoint: &Endpoint, number: u64) -> Result<Link> {
    let mut link = match link {
        Some(link) => link,
        None => Link::open(endpoint, Transport::Ws, None).await?,
    };
    let fields = format!("\"channel\":\"{CHANNEL}\",\"event\":\"said\",\"data\":{{\"number\":{number}}}");
    link.writer().queue_request("channel:publish", &fields, Some(number));
    link.writer().flush().await?;
    let answered = async {
        loop {
            let frame: Value = serde_json::from_slice(&link.next_text().await?)?;
            if frame["ref"].as_u64() == Some(number) {
                return Ok::<_, anyhow::Error>(frame["type"] == "ok");
            }
        }
    };
    anyhow::ensure!(timeout(ANSWER_LIMIT, answered).await??, "refused");
    Ok(link)
}
