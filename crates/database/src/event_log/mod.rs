//! The event log on PostgreSQL.
//!
//! Owns the `event_log*` tables. One writer a process commits what has queued up in one transaction (group
//! commit); live readers are woken by NOTIFY and read by position; side-effect readers read by position.
//! Nothing is only in memory: what the writer and the live reader remember is checked against the partition's
//! row, or read again.

mod append;
mod epochs;
mod history;
mod ids;
mod live;
mod load;
mod memory;
mod messages;
mod notify;
mod plan;
mod retention;
mod rows;
mod side_effects;
mod store;
mod unit;
mod writer;

pub use epochs::take_over;
pub use ids::forget_ids;

pub(crate) use append::Request;
use event_log::{
    Entry, EventLog, HistoryPage, HistoryQuery, LiveReader, LogError, Message, Outcome, SideEffectReader,
    TopicKey,
};
use futures::future::BoxFuture;
use metrics::Metrics;
pub(crate) use rows::decode;
use shared_types::Position;
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::error::Elapsed,
};
use tokio_util::sync::CancellationToken;
pub(crate) use writer::Command;

/// The number of partitions; fixed, because topics hash to them.
pub const PARTITIONS: u16 = 64;

/// How many append calls may wait for the writer before callers wait in turn.
const QUEUE: usize = 4096;

/// How the log keeps and bounds what it stores.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// How long a topic's history is kept, where the registry of topics does not say otherwise.
    pub history: Duration,
    /// How many bytes of events are kept at most; past it appends are refused where readers are behind.
    pub backlog_bytes: u64,
    /// How often what is no longer kept is removed.
    pub sweep_every: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            history: Duration::from_secs(24 * 3600),
            backlog_bytes: 20 << 30,
            sweep_every: Duration::from_secs(10),
        }
    }
}

/// The event log on PostgreSQL, one a process.
pub struct PostgresEventLog {
    pool: PgPool,
    commands: mpsc::Sender<Command>,
    live: live::LiveHub,
    messages: messages::Messages,
}

impl PostgresEventLog {
    /// Starts the writer, the notifier, the live reader and the retention sweep in `tasks`; they end with `stop`.
    ///
    /// The database need not be reachable yet: calls fail with `Unavailable` until it is.
    pub fn start(
        pool: PgPool,
        settings: LogSettings,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (notifier, notify) = notify::start(pool.clone());
        let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let wanted = messages::Wanted::default();
        let (messages, said) =
            messages::Messages::start(pool.clone(), wanted.clone(), metrics.clone(), tasks, stop.clone());
        let (live, reader) =
            live::LiveHub::new(pool.clone(), commands.clone(), metrics.clone(), wanted, said);
        let writer = writer::Writer::new(
            pool.clone(),
            queue,
            notifier,
            live.committed(),
            metrics.clone(),
            full.clone(),
        );
        tasks.spawn(writer.run(stop.clone()));
        tasks.spawn(notify);
        tasks.spawn(reader.run(stop.clone()));
        tasks.spawn(retention::Sweeper::new(pool.clone(), settings, full, metrics).run(stop));
        Arc::new(Self { pool, commands, live, messages })
    }
}

impl PostgresEventLog {
    /// The way to the writer, for the documents that are committed with their events.
    pub(crate) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }
}

/// Sends a command to the writer and waits for its answer.
async fn ask<T>(
    commands: mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Command,
) -> Result<T, LogError> {
    let (reply, answer) = oneshot::channel();
    let stopped = || LogError::Unavailable("the log is stopping".to_owned());
    commands.send(command(reply)).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())?
}

impl EventLog for PostgresEventLog {
    fn append(&self, entries: Vec<Entry>) -> BoxFuture<'static, Result<Vec<Outcome>, LogError>> {
        // Without a budget, so that the first poll takes a place in the queue: a task that has spent its turn would
        // otherwise be sent away without one, and a later call could overtake this one.
        Box::pin(tokio::task::unconstrained(ask(self.commands.clone(), |reply| Command::Append {
            entries,
            reply,
        })))
    }

    fn history(
        &self,
        key: &TopicKey,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, LogError>> {
        Box::pin(history::page(self.pool.clone(), self.commands.clone(), key.clone(), query))
    }

    fn head(&self, key: &TopicKey) -> BoxFuture<'static, Result<Position, LogError>> {
        Box::pin(history::head(self.pool.clone(), self.commands.clone(), key.clone()))
    }

    fn announce(&self, messages: Vec<Message>) -> BoxFuture<'static, Result<(), LogError>> {
        // As with appends: the first poll takes a place in the queue.
        Box::pin(tokio::task::unconstrained(self.messages.clone().say(messages)))
    }

    fn begin_epochs(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        Box::pin(epochs::begin_epochs(self.pool.clone(), keys))
    }

    fn live(&self) -> LiveReader {
        self.live.open()
    }

    fn side_effects(&self, group: &str) -> BoxFuture<'static, Result<Arc<dyn SideEffectReader>, LogError>> {
        Box::pin(side_effects::open(self.pool.clone(), group.to_owned()))
    }

    fn partitions(&self) -> u16 {
        PARTITIONS
    }
}

/// A database failure as the log tells it: the cause goes into the message for our own log, never to a client.
fn failed(error: sqlx::Error) -> LogError {
    match &error {
        sqlx::Error::Database(inner) if !is_passing(inner.code().as_deref()) => {
            LogError::Internal(error.to_string())
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
            LogError::Internal(error.to_string())
        }
        _ => LogError::Unavailable(error.to_string()),
    }
}

/// Whether a failure passes by itself: lost connection, shortage, shutdown, read-only or full disk, cancelled.
fn is_passing(code: Option<&str>) -> bool {
    code.is_some_and(|code| ["08", "53", "57", "58", "25", "40", "55"].contains(&&code[..2.min(code.len())]))
}

/// Ends a piece of work over a connection of a pool, with what it came to. Where the server has answered with an error
/// others go on with the connection: a server that cannot write may take no new ones. Where it has not answered in time, or
/// answers no more what it is asked because a stream was left in the middle, nobody does.
pub(crate) async fn leave<T>(
    mut connection: PoolConnection<Postgres>,
    limit: Duration,
    outcome: Result<Result<T, sqlx::Error>, Elapsed>,
) -> Result<T, LogError> {
    let is_sound = match &outcome {
        Ok(Ok(_)) => true,
        Ok(Err(_)) => answers(&mut connection).await,
        Err(_) => false,
    };
    if !is_sound {
        drop(connection.detach());
    }
    settled(limit, outcome)
}

/// Whether the connection answers what it is asked, once what was left of its transaction is rolled back.
async fn answers(connection: &mut PgConnection) -> bool {
    const ASKED: i64 = 7_031_922_518;
    let asking = sqlx::query_scalar::<_, i64>("select $1::bigint").bind(ASKED).fetch_one(connection);
    matches!(tokio::time::timeout(Duration::from_secs(1), asking).await, Ok(Ok(ASKED)))
}

fn settled<T>(limit: Duration, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, LogError> {
    match outcome {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(LogError::Unavailable(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Bounds a database call that would otherwise wait for ever on a dead peer.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, LogError> {
    settled(limit, tokio::time::timeout(limit, work).await)
}
