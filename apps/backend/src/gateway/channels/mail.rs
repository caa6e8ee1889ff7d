//! Mail between instances: direct messages, questions about a connection, and the table of connections.

use super::Channels;
use crate::gateway::registry::Registry;
use event_log::TopicKey;
use event_router::{Content, Letter, LiveMessage, MAIL, Mail, Outgoing, Saying};
use serde_json::Value;
use shared_types::{Problem, Scope, TopicName};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{OnceCell, mpsc};

/// How long an answer about a connection is waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);
/// How long the tables of connections are waited for.
const TABLES_WITHIN: Duration = Duration::from_secs(2);
/// Connections that one instance lists at most.
pub const LISTED: usize = 500;

/// Connections of all instances.
#[derive(Default)]
pub struct Table {
    /// How many there are.
    pub count: u64,
    /// What is known of them, at most [`LISTED`] an instance.
    pub connections: Vec<Value>,
}

fn instance_of(socket_id: &str) -> Option<&str> {
    socket_id.rsplit_once('-').map(|(_, instance)| instance)
}

fn mailbox(scope: &Scope, instance: &str) -> TopicKey {
    TopicKey::new(scope, &TopicName::from_stored(&format!("{MAIL}{instance}")))
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

    /// The connections of the scope, of all instances that answer in time.
    ///
    /// # Errors
    /// `UNAVAILABLE` where instances cannot be asked.
    pub async fn table(&self, scope: &Scope, only_count: bool) -> Result<Table, Problem> {
        let (count, connections) = self.registry.table(scope, if only_count { 0 } else { LISTED });
        let mut table = Table { count, connections };
        let others: Vec<String> =
            self.store.instances().await?.into_iter().filter(|other| *other != self.instance).collect();
        if others.is_empty() {
            return Ok(table);
        }
        let (call, mut answers) = self.open_call(scope, others.len()).await?;
        for other in &others {
            self.post(scope, other, call, Letter::List { count: only_count }).await?;
        }
        let gather = async {
            for _ in &others {
                if let Some(Letter::Listed { count, connections }) = answers.recv().await {
                    table.count += count;
                    table.connections.extend(connections);
                }
            }
        };
        let _ = tokio::time::timeout(TABLES_WITHIN, gather).await;
        self.calls.lock().remove(&call);
        Ok(table)
    }

    async fn ask(&self, scope: &Scope, instance: &str, letter: Letter) -> Result<Option<Letter>, Problem> {
        let (call, mut answers) = self.open_call(scope, 1).await?;
        self.post(scope, instance, call, letter).await?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, answers.recv()).await;
        self.calls.lock().remove(&call);
        Ok(answer.ok().flatten())
    }

    async fn open_call(
        &self,
        scope: &Scope,
        answers: usize,
    ) -> Result<(u64, mpsc::Receiver<Letter>), Problem> {
        self.open_mailbox(scope).await?;
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (answered, receiver) = mpsc::channel(answers);
        self.calls.lock().insert(call, answered);
        Ok((call, receiver))
    }

    async fn post(&self, scope: &Scope, to: &str, call: u64, letter: Letter) -> Result<(), Problem> {
        let mail = Mail { call, reply_to: self.instance.clone(), letter };
        Ok(self.announce(mailbox(scope, to), &Content::Mail(mail)).await?)
    }

    /// Takes mail for connections of the scope from now on.
    ///
    /// # Errors
    /// Those of the log.
    pub async fn open_mailbox(&self, scope: &Scope) -> Result<(), Problem> {
        let cell: Arc<OnceCell<()>> = self.mailboxes.lock().entry(scope.clone()).or_default().clone();
        let open = cell.get_or_try_init(|| self.hub.take_mail(mailbox(scope, &self.instance))).await;
        open.map(|_| ()).map_err(Problem::from)
    }

    pub(super) async fn read_mail(&self, mut mails: mpsc::Receiver<Arc<LiveMessage>>) {
        while let Some(message) = mails.recv().await {
            let (scope, Content::Mail(mail)) = (&message.key.scope, &message.content) else { continue };
            let answer = match &mail.letter {
                Letter::Deliver { to, saying } => {
                    Letter::Found(deliver(&self.registry, scope, to, saying.clone()))
                }
                Letter::Find { socket } => Letter::Found(self.registry.find(scope, socket).is_some()),
                Letter::List { count } => {
                    let (count, connections) = self.registry.table(scope, if *count { 0 } else { LISTED });
                    Letter::Listed { count, connections }
                }
                answer => {
                    if let Some(call) = self.calls.lock().get(&mail.call) {
                        // Whoever asked may not wait any more.
                        let _ = call.try_send(answer.clone());
                    }
                    continue;
                }
            };
            if let Err(problem) = self.post(scope, &mail.reply_to, mail.call, answer).await {
                tracing::debug!(%problem, "a mail could not be answered");
            }
        }
    }
}

/// Says something to a connection of this instance; answers whether it is there.
fn deliver(registry: &Registry, scope: &Scope, to: &str, saying: Saying) -> bool {
    let Some(connection) = registry.find(scope, to) else { return false };
    let letter = Letter::Deliver { to: to.to_owned(), saying };
    let mail = Mail { call: 0, reply_to: String::new(), letter };
    let message = LiveMessage::new(mailbox(scope, ""), Content::Mail(mail));
    connection.outbox.push(Outgoing::Message(Arc::new(message)))
}
