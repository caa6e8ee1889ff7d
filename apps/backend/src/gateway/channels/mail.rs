//! Mail between instances: direct messages, questions about a connection, the table of connections, and who watches.
//!
//! Each instance has one mailbox, open before others know of the instance. A mail says whose connections it is about.

use super::Channels;
use crate::gateway::registry::Registry;
use event_log::TopicKey;
use event_router::{Content, Letter, LiveMessage, Mail, Outgoing, Saying, Wanted, own::MAIL};
use serde_json::Value;
use shared_types::{AppId, Environment, Problem, Scope, TopicName};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::mpsc;

/// How long an answer about a connection is waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// How long the answers of all instances are waited for.
const ALL_WITHIN: Duration = Duration::from_secs(2);
/// How long the opening of the own mailbox is waited for.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait before it is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Connections of all instances.
#[derive(Default)]
pub struct Table {
    /// How many there are that are wanted.
    pub count: u64,
    /// What is known of the first of them, by socket.
    pub connections: Vec<Value>,
}

impl Table {
    fn add(&mut self, count: u64, connections: Vec<Value>) {
        self.count += count;
        self.connections.extend(connections);
    }
}

fn instance_of(socket_id: &str) -> Option<&str> {
    socket_id.rsplit_once('-').map(|(_, instance)| instance)
}

/// Where an instance gets its mail: under a name that no application can have.
fn mailbox(instance: &str) -> TopicKey {
    let platform = Scope::new(AppId::from_stored("@platform"), Environment::Production);
    TopicKey::new(&platform, &TopicName::from_stored(&format!("{MAIL}{instance}")))
}

impl Channels {
    /// Says something to one connection of the scope; answers whether it was there.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn direct(&self, scope: &Scope, to: &str, saying: Saying) -> Result<bool, Problem> {
        let Some(instance) = instance_of(to) else { return Ok(false) };
        if instance == self.instance {
            return Ok(deliver(&self.registry, scope, to, saying));
        }
        let letter = Letter::Deliver { to: to.to_owned(), saying };
        Ok(matches!(self.ask(scope, instance, letter).await?, Some(Letter::Found(true))))
    }

    /// Whether a connection that `instance` held is still there.
    pub(super) async fn is_alive(&self, scope: &Scope, instance: &str, socket_id: &str) -> bool {
        let letter = Letter::Find { socket: socket_id.to_owned() };
        matches!(self.ask(scope, instance, letter).await, Ok(Some(Letter::Found(true))))
    }

    /// All that is known of a connection of the scope, wherever it is.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn describe(&self, scope: &Scope, socket_id: &str) -> Result<Option<Value>, Problem> {
        let Some(instance) = instance_of(socket_id) else { return Ok(None) };
        if instance == self.instance {
            return Ok(self.registry.describe(scope, socket_id));
        }
        match self.ask(scope, instance, Letter::Describe { socket: socket_id.to_owned() }).await? {
            Some(Letter::Described(connection)) => Ok(connection),
            _ => Ok(None),
        }
    }

    /// The wanted connections of the scope, of all instances that answer in time.
    ///
    /// # Errors
    /// `UNAVAILABLE` where instances cannot be asked.
    pub async fn table(&self, scope: &Scope, wanted: &Wanted) -> Result<Table, Problem> {
        let mut table = Table::default();
        let (count, connections) = self.registry.table(scope, wanted);
        table.add(count, connections);
        for answer in self.ask_all(scope, &Letter::List(wanted.clone())).await? {
            if let Letter::Listed { count, connections } = answer {
                table.add(count, connections);
            }
        }
        let socket = |connection: &Value| connection["socketId"].as_str().unwrap_or_default().to_owned();
        table.connections.sort_by_cached_key(socket);
        table.connections.truncate(wanted.limit);
        Ok(table)
    }

    /// What all other instances answer in time.
    pub(super) async fn ask_all(&self, scope: &Scope, letter: &Letter) -> Result<Vec<Letter>, Problem> {
        let mut others = self.store.instances().await?;
        others.retain(|other| *other != self.instance);
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.open_call(others.len()).await?;
        for other in &others {
            self.post(scope, other, call.number, letter.clone()).await?;
        }
        let mut letters = Vec::new();
        let gather = async {
            for _ in &others {
                letters.extend(call.answers.recv().await);
            }
        };
        let _ = tokio::time::timeout(ALL_WITHIN, gather).await;
        Ok(letters)
    }

    async fn ask(&self, scope: &Scope, instance: &str, letter: Letter) -> Result<Option<Letter>, Problem> {
        let mut call = self.open_call(1).await?;
        self.post(scope, instance, call.number, letter).await?;
        Ok(tokio::time::timeout(ANSWER_WITHIN, call.answers.recv()).await.ok().flatten())
    }

    async fn open_call(&self, answers: usize) -> Result<Call<'_>, Problem> {
        if !self.is_reached().await {
            return Err(Problem::unavailable("other instances cannot be asked yet; try again"));
        }
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (answered, answers) = mpsc::channel(answers);
        self.calls.lock().insert(number, answered);
        Ok(Call { channels: self, number, answers })
    }

    async fn post(&self, scope: &Scope, to: &str, call: u64, letter: Letter) -> Result<(), Problem> {
        let mail = Mail {
            application: scope.application().clone(),
            environment: scope.environment(),
            call,
            reply_to: self.instance.clone(),
            letter,
        };
        Ok(self.announce(mailbox(to), &Content::Mail(mail)).await?)
    }

    /// Takes mail from now on; tries until it can.
    pub(super) async fn open_mailbox(&self) {
        while let Err(error) = self.hub.take_mail(mailbox(&self.instance)).await {
            tracing::warn!(%error, "mail of other instances does not come yet");
            tokio::time::sleep(RETRY).await;
        }
        self.mailbox.send_replace(true);
    }

    /// Whether mail for this instance comes, after waiting for it for a moment. Before it does, nobody is let in whom
    /// others could not reach.
    pub async fn is_reached(&self) -> bool {
        let mut open = self.mailbox.subscribe();
        let opened = tokio::time::timeout(OPEN_WITHIN, open.wait_for(|open| *open)).await;
        matches!(opened, Ok(Ok(_)))
    }

    pub(super) async fn read_mail(&self, mut mails: mpsc::Receiver<Arc<LiveMessage>>) {
        while let Some(message) = mails.recv().await {
            let Content::Mail(mail) = &message.content else { continue };
            let Some(answer) = self.answer(mail) else { continue };
            if let Err(problem) = self.post(&mail.scope(), &mail.reply_to, mail.call, answer).await {
                tracing::debug!(%problem, "a mail could not be answered");
            }
        }
    }

    /// The answer to a mail, or `None` for one that is an answer itself.
    fn answer(&self, mail: &Mail) -> Option<Letter> {
        let scope = mail.scope();
        Some(match &mail.letter {
            Letter::Deliver { to, saying } => {
                Letter::Found(deliver(&self.registry, &scope, to, saying.clone()))
            }
            Letter::Find { socket } => Letter::Found(self.registry.find(&scope, socket).is_some()),
            Letter::Describe { socket } => Letter::Described(self.registry.describe(&scope, socket)),
            Letter::List(wanted) => {
                let (count, connections) = self.registry.table(&scope, wanted);
                Letter::Listed { count, connections }
            }
            Letter::Watch => {
                self.registry.traffic.watch(&scope);
                Letter::Found(true)
            }
            answer @ (Letter::Found(_) | Letter::Described(_) | Letter::Listed { .. }) => {
                if let Some(call) = self.calls.lock().get(&mail.call) {
                    // Whoever asked may not wait any more.
                    let _ = call.try_send(answer.clone());
                }
                return None;
            }
        })
    }
}

/// Something asked of other instances; forgotten when dropped.
struct Call<'c> {
    channels: &'c Channels,
    number: u64,
    answers: mpsc::Receiver<Letter>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.channels.calls.lock().remove(&self.number);
    }
}

/// Says something to a connection of this instance; answers whether it is there.
fn deliver(registry: &Registry, scope: &Scope, to: &str, saying: Saying) -> bool {
    let Some(connection) = registry.find(scope, to) else { return false };
    let letter = Letter::Deliver { to: to.to_owned(), saying };
    let mail = Mail {
        application: scope.application().clone(),
        environment: scope.environment(),
        call: 0,
        reply_to: String::new(),
        letter,
    };
    let message = LiveMessage::new(mailbox(""), Content::Mail(mail));
    connection.outbox.push(Outgoing::Message(Arc::new(message)))
}
