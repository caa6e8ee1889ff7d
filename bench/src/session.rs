//! One measured session: receivers that follow, a publisher that keeps a number of messages under way.
//!
//! Closed loop: the next message goes out when an earlier one has reached all that it is for. Everything
//! runs on one thread, so that the load generator needs one core and no locks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accounting::Ledger;
use crate::link::{Answer, Endpoint, Link, Transport, Writer};
use crate::wire::sequence::sequence_in;

/// A message that is not complete after this long is given up; what is missing of it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What receivers, publisher and measurement share.
struct Shared {
    ledger: RefCell<Ledger>,
    completed: Notify,
    failure: RefCell<Option<anyhow::Error>>,
}

impl Shared {
    fn fail(&self, error: anyhow::Error) {
        self.failure.borrow_mut().get_or_insert(error);
        self.completed.notify_one();
    }

    fn check(&self) -> Result<()> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// Receivers and publisher of one session. Dropping it closes all their connections.
pub struct Session {
    shared: Rc<Shared>,
    publishers: Vec<Rc<Writer>>,
    next_publisher: usize,
    message: Message,
    // Aborts the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

impl Session {
    /// Lets the subscribed links follow, and opens publishing connections.
    ///
    /// Each message is for `receivers_of_each` of the links.
    ///
    /// # Errors
    /// A publisher cannot connect.
    pub async fn start(
        links: Vec<Link>,
        receivers_of_each: u32,
        publishing: &Publishing<'_>,
    ) -> Result<Self> {
        let shared = Rc::new(Shared {
            ledger: RefCell::new(Ledger::new(links.len(), receivers_of_each)),
            completed: Notify::new(),
            failure: RefCell::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn_local(stay_awake());
        for (index, link) in links.into_iter().enumerate() {
            tasks.spawn_local(follow(link, index, Rc::clone(&shared)));
        }
        let mut publishers = Vec::new();
        for _ in 0..publishing.connections.max(1) {
            let link = Link::open(publishing.endpoint, publishing.transport, None).await?;
            publishers.push(link.writer());
            tasks.spawn_local(watch_answers(link, Rc::clone(&shared)));
        }
        let message = publishing.message.clone();
        Ok(Self { shared, publishers, next_publisher: 0, message, _tasks: tasks })
    }

    /// Publishes for so long with up to `window` messages under way, then waits for the last ones.
    /// `payload` makes the payload (JSON) of a sequence number.
    ///
    /// # Errors
    /// A connection broke, or the server refused a message.
    pub async fn publish_for(
        &mut self,
        duration: Duration,
        window: u64,
        mut payload: impl FnMut(u64) -> String,
    ) -> Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            let free = window.saturating_sub(self.shared.ledger.borrow().under_way());
            if free > 0 {
                self.publish(free, &mut payload).await?;
            }
            self.progress().await?;
        }
        while self.shared.ledger.borrow().under_way() > 0 {
            self.progress().await?;
        }
        self.shared.check()
    }

    async fn publish(&mut self, count: u64, payload: &mut impl FnMut(u64) -> String) -> Result<()> {
        let writer = Rc::clone(&self.publishers[self.next_publisher]);
        self.next_publisher = (self.next_publisher + 1) % self.publishers.len();
        for _ in 0..count {
            let sequence = self.shared.ledger.borrow_mut().publish(Instant::now());
            let (name, fields) = self.message.request(&payload(sequence));
            writer.queue_request(name, &fields, None);
        }
        writer.flush().await.context("publishing")
    }

    /// Waits until a message is complete; after too long it gives up what is under way.
    async fn progress(&self) -> Result<()> {
        if timeout(PATIENCE, self.shared.completed.notified()).await.is_err() {
            self.shared.ledger.borrow_mut().abandon();
        }
        self.shared.check()
    }

    /// Reads or resets the ledger.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.shared.ledger.borrow_mut())
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum Message {
    /// An event of this topic.
    Event(String),
    /// A message in this channel.
    Said(String),
}

impl Message {
    /// The request's name and fields. The payload stands last: the bare server finds it there.
    fn request(&self, payload: &str) -> (&'static str, String) {
        match self {
            Self::Event(topic) => ("publish", format!("\"topic\":\"{topic}\",\"payload\":{payload}")),
            Self::Said(channel) => (
                "channel:publish",
                format!("\"channel\":\"{channel}\",\"event\":\"said\",\"data\":{payload}"),
            ),
        }
    }
}

/// How messages get to the server.
#[derive(Debug, Clone)]
pub struct Publishing<'a> {
    /// Where.
    pub endpoint: &'a Endpoint,
    /// By what.
    pub transport: Transport,
    /// What.
    pub message: Message,
    /// Over how many connections, in turn.
    pub connections: usize,
}

/// Looks for messages without ever sleeping.
///
/// On one machine a sleeping receiver is woken at the sender's expense, and whether it sleeps depends on which of both is
/// a little faster. Real clients are elsewhere, and no server pays for waking them.
async fn stay_awake() {
    loop {
        tokio::task::yield_now().await;
    }
}

async fn follow(mut link: Link, index: usize, shared: Rc<Shared>) {
    loop {
        let mut completes = false;
        let pumped = link
            .pump(|text, at| {
                if let Some(sequence) = sequence_in(text) {
                    completes |= shared.ledger.borrow_mut().receive(index, sequence, at);
                }
            })
            .await;
        if completes {
            shared.completed.notify_one();
        }
        if let Err(error) = pumped {
            return shared.fail(error.context(format!("subscriber {index}")));
        }
    }
}

async fn watch_answers(mut link: Link, shared: Rc<Shared>) {
    loop {
        match link.answer().await {
            Ok(Answer::Done(_)) => {}
            Ok(Answer::Refused { text, .. }) => {
                return shared.fail(anyhow!("the server refused a message: {text}"));
            }
            Err(error) => return shared.fail(error.context("publisher")),
        }
    }
}

/// A topic that no other run used, so that no history is in the way.
///
/// # Errors
/// The clock stands before 1970.
pub fn fresh_topic(kind: &str) -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    ensure!(!kind.is_empty(), "a topic has a name");
    Ok(format!("bench.{kind}.{}", now.as_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_with_their_payload() {
        let (name, fields) = Message::Event("t".to_owned()).request("{\"seq\":1}");
        assert_eq!((name, fields.as_str()), ("publish", "\"topic\":\"t\",\"payload\":{\"seq\":1}"));
        let (name, fields) = Message::Said("c:1".to_owned()).request("{\"seq\":1}");
        assert_eq!(name, "channel:publish");
        assert_eq!(fields, "\"channel\":\"c:1\",\"event\":\"said\",\"data\":{\"seq\":1}");
    }
}
