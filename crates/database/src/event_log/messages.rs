//! What is announced and not kept: messages through an unlogged table.
//!
//! One task a process says what has queued up in one transaction, under a lock, so that numbers follow the order of
//! commits; another reads on by number, woken by the first, by NOTIFY, and twice a second. Rows are removed after
//! half a minute: by then everybody has read them, or has been away for so long that they do not matter any more.

use super::{failed, rows, within};
use event_log::{LogError, Message, TopicKey, WAITING_MESSAGES};
use metrics::Metrics;
use parking_lot::RwLock;
use sqlx::{PgPool, Row, postgres::PgListener};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The channel on which other processes are told.
const CHANNEL: &str = "realtime_messages";
/// The lock under which numbers are given.
const LOCK: i64 = 0x7265_616c_7469_6d65;
/// Calls that may wait for the task that says them.
const QUEUE: usize = 4_096;
/// Messages in one transaction, beyond which no further call joins.
const BATCH: usize = 1_000;
/// Messages read at a time.
const PAGE: i64 = 1_000;
/// How often the reader looks by itself.
const LOOK: Duration = Duration::from_millis(500);
/// How often old messages are removed.
const SWEEP: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keys that somebody in this process follows.
pub type Wanted = Arc<RwLock<HashSet<TopicKey>>>;

type Call = (Vec<Message>, oneshot::Sender<Result<(), LogError>>);

/// The way of messages out of and into this process.
#[derive(Clone)]
pub struct Messages {
    calls: mpsc::Sender<Call>,
}

impl Messages {
    /// Starts both tasks in `tasks`; they end with `stop`. What comes under a wanted key goes into the receiver.
    pub fn start(
        pool: PgPool,
        wanted: Wanted,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<Message>) {
        let (calls, queue) = mpsc::channel(QUEUE);
        let (out, messages) = mpsc::channel(WAITING_MESSAGES);
        let said = Arc::new(Notify::new());
        tasks.spawn(say_all(pool.clone(), queue, said.clone(), stop.clone()));
        let reader = Reader { pool, wanted, metrics, out, last: None };
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reader.run(said) => {}
            }
        });
        (Self { calls }, messages)
    }

    /// Says `messages`.
    ///
    /// # Errors
    /// `Unavailable` where the database does not answer.
    pub async fn say(self, messages: Vec<Message>) -> Result<(), LogError> {
        let stopped = || LogError::Unavailable("the log is stopping".to_owned());
        let (reply, answer) = oneshot::channel();
        self.calls.send((messages, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn say_all(pool: PgPool, mut queue: mpsc::Receiver<Call>, said: Arc<Notify>, stop: CancellationToken) {
    loop {
        let first = tokio::select! {
            biased;
            call = queue.recv() => call,
            () = stop.cancelled() => {
                queue.close();
                queue.recv().await
            }
        };
        let Some((mut messages, reply)) = first else { return };
        let mut replies = vec![reply];
        while messages.len() < BATCH
            && let Ok((more, reply)) = queue.try_recv()
        {
            messages.extend(more);
            replies.push(reply);
        }
        let done = within(TIMEOUT, insert(&pool, &messages)).await;
        if done.is_ok() {
            said.notify_one();
        }
        replies.into_iter().for_each(|reply| drop(reply.send(done.clone())));
    }
}

async fn insert(pool: &PgPool, messages: &[Message]) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    // Nothing here has to survive a crash, so that nobody waits for the disk.
    sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
    sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    sqlx::query(
        "insert into event_log_messages (application_id, environment, topic, body) \
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])",
    )
    .bind(messages.iter().map(|m| m.key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| m.key.topic.as_str()).collect::<Vec<_>>())
    .bind(messages.iter().map(|m| &*m.body).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    // Behind the commit: inside it, notices would serialize with everybody else's.
    sqlx::query("select pg_notify($1, '')").bind(CHANNEL).execute(pool).await?;
    Ok(())
}

struct Reader {
    pool: PgPool,
    wanted: Wanted,
    metrics: Arc<Metrics>,
    out: mpsc::Sender<Message>,
    /// The last number read; none until the first look.
    last: Option<i64>,
}

impl Reader {
    async fn run(mut self, said: Arc<Notify>) {
        let (heard, pool) = (Notify::new(), self.pool.clone());
        tokio::select! {
            () = listen(&pool, &heard) => {}
            () = self.read_on(&said, &heard) => {}
        }
    }

    async fn read_on(&mut self, said: &Notify, heard: &Notify) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let done = tokio::select! {
                () = said.notified() => self.read().await,
                () = heard.notified() => self.read().await,
                _ = look.tick() => self.read().await,
                _ = sweep.tick() => self.sweep().await,
            };
            if let Err(error) = done {
                tracing::debug!(%error, "could not read messages; trying again");
            }
        }
    }

    async fn read(&mut self) -> Result<(), LogError> {
        loop {
            let Some(last) = self.last else {
                let sql = "select coalesce(max(id), 0) from event_log_messages";
                let head = sqlx::query_scalar(sql).fetch_one(&self.pool);
                self.last = Some(within(TIMEOUT, head).await?);
                return Ok(());
            };
            let topics: Vec<String> = self.wanted.read().iter().map(|key| key.topic.to_string()).collect();
            let page = sqlx::query(
                "select id, application_id, environment, topic, \
                        case when topic = any($2) then body end as body \
                 from event_log_messages where id > $1 order by id limit $3",
            )
            .bind(last)
            .bind(topics)
            .bind(PAGE)
            .fetch_all(&self.pool);
            let page = within(TIMEOUT, page).await?;
            for row in &page {
                self.last = Some(row.try_get("id").map_err(failed)?);
                if let Some(body) = row.try_get::<Option<&str>, _>("body").map_err(failed)? {
                    self.hand_on(Message { key: rows::key(row).map_err(failed)?, body: body.into() });
                }
            }
            if page.len() == PAGE as usize {
                continue;
            }
            if !page.is_empty() || !self.numbers_began_anew(last).await? {
                return Ok(());
            }
            self.last = Some(0);
        }
    }

    /// Whether the numbers stand before `last`. The crash of a server empties the table and, from PostgreSQL 15 on,
    /// sets its numbers back too: what is then said would not be heard until they have passed `last` again.
    async fn numbers_began_anew(&self, last: i64) -> Result<bool, LogError> {
        let sql = "select case when is_called then last_value else 0 end from event_log_messages_id_seq";
        let given: i64 = within(TIMEOUT, sqlx::query_scalar(sql).fetch_one(&self.pool)).await?;
        Ok(given < last)
    }

    fn hand_on(&self, message: Message) {
        if self.wanted.read().contains(&message.key) && self.out.try_send(message).is_err() {
            self.metrics.messages_dropped.inc();
        }
    }

    async fn sweep(&self) -> Result<(), LogError> {
        let sql = "delete from event_log_messages where created_at < now() - interval '30 seconds'";
        within(TIMEOUT, sqlx::query(sql).execute(&self.pool)).await.map(drop)
    }
}

/// Tells `heard` of what other processes say.
async fn listen(pool: &PgPool, heard: &Notify) {
    loop {
        if let Err(error) = hear(pool, heard).await {
            tracing::debug!(%error, "not listening for messages; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Listens until the connection fails for good.
async fn hear(pool: &PgPool, heard: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // Nothing means that the connection was lost and made anew: there may be something to read.
        listener.try_recv().await?;
        heard.notify_one();
    }
}
