//! The one writer of a process: what queues up while a transaction commits goes into the next one.

use super::{
    append::{self, Answer, Grown, Request},
    memory::Memory,
};
use crate::documents::{self, EditRequest, MAX_EDITS};
use document_store::{Document, StoreError};
use event_log::{Entry, LogError, Outcome, TopicKey};
use metrics::Metrics;
use shared_types::Position;
use sqlx::PgPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Entries in one transaction, beyond which no further request joins.
const BATCH_ENTRIES: usize = 2_000;
/// Bytes in one transaction, beyond which no further request joins.
const BATCH_BYTES: usize = 4 << 20;

/// What the writer is asked to do.
pub enum Command {
    /// Append entries, all or none.
    Append {
        /// The entries.
        entries: Vec<Entry>,
        /// Where the outcome goes.
        reply: oneshot::Sender<Result<Vec<Outcome>, LogError>>,
    },
    /// Give topics an epoch where they have none, and answer their heads.
    Ensure {
        /// The topics.
        keys: Vec<TopicKey>,
        /// Where their heads go.
        reply: oneshot::Sender<Result<Vec<Position>, LogError>>,
    },
    /// Edit a document and append its event.
    Edit {
        /// The edit.
        request: EditRequest,
        /// Where the document goes.
        reply: oneshot::Sender<Result<Document, StoreError>>,
    },
}

/// Where an answer goes.
enum Reply {
    Append(oneshot::Sender<Result<Vec<Outcome>, LogError>>),
    Ensure(oneshot::Sender<Result<Vec<Position>, LogError>>),
    Edit(oneshot::Sender<Result<Document, StoreError>>),
}

/// The writer task's state.
pub struct Writer {
    pool: PgPool,
    queue: mpsc::Receiver<Command>,
    notifier: mpsc::Sender<(u16, u64)>,
    live: mpsc::Sender<Grown>,
    metrics: Arc<Metrics>,
    full: Arc<AtomicBool>,
    memory: Memory,
}

impl Writer {
    /// A writer that takes from `queue` and tells `notifier` and `live` what it committed.
    pub fn new(
        pool: PgPool,
        queue: mpsc::Receiver<Command>,
        notifier: mpsc::Sender<(u16, u64)>,
        live: mpsc::Sender<Grown>,
        metrics: Arc<Metrics>,
        full: Arc<AtomicBool>,
    ) -> Self {
        Self { pool, queue, notifier, live, metrics, full, memory: Memory::default() }
    }

    /// Runs until `stop`, then commits what is still queued.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                command = self.queue.recv() => command,
                () = stop.cancelled() => {
                    self.queue.close();
                    self.queue.recv().await
                }
            };
            let Some(first) = first else { return };
            let (requests, replies) = self.gather(first);
            self.process(requests, replies).await;
        }
    }

    /// Takes what has queued up, within the bounds of a transaction. Refuses appends while the log is full.
    fn gather(&mut self, first: Command) -> (Vec<Request>, Vec<Reply>) {
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let (mut count, mut bytes, mut edits) = (0, 0, 0);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append { reply, .. } if self.full.load(Ordering::Relaxed) => {
                    let _ = reply.send(Err(LogError::BacklogFull));
                }
                Command::Append { entries, reply } => {
                    count += entries.len();
                    bytes += entries.iter().map(Entry::size).sum::<usize>();
                    requests.push(Request::Append(entries));
                    replies.push(Reply::Append(reply));
                }
                Command::Ensure { keys, reply } => {
                    count += keys.len();
                    requests.push(Request::Ensure(keys));
                    replies.push(Reply::Ensure(reply));
                }
                Command::Edit { reply, .. } if self.full.load(Ordering::Relaxed) => {
                    let _ = reply.send(Err(StoreError::BacklogFull));
                }
                Command::Edit { request, reply } => {
                    (count, edits) = (count + 1, edits + 1);
                    requests.push(Request::Edit(request));
                    replies.push(Reply::Edit(reply));
                }
            }
            let room = count < BATCH_ENTRIES && bytes < BATCH_BYTES && edits < MAX_EDITS;
            next = if room { self.queue.try_recv().ok() } else { None };
        }
        (requests, replies)
    }

    async fn process(&mut self, requests: Vec<Request>, replies: Vec<Reply>) {
        if requests.is_empty() {
            return;
        }
        let started = Instant::now();
        match append::commit(&self.pool, &mut self.memory, &requests).await {
            Ok((answers, grown)) => {
                let count: usize = grown.iter().map(|g| g.events.len()).sum();
                self.metrics.appends.inc_by(count as u64);
                self.metrics.append_batch_size.observe(count as f64);
                self.metrics.append_seconds.observe(started.elapsed().as_secs_f64());
                self.announce(grown);
                replies.into_iter().zip(answers).for_each(|(reply, answer)| reply.send(answer));
            }
            Err(error) if requests.len() > 1 && append::may_be_one_request(&error) => {
                // One request that the database refuses must not fail the others that share its transaction.
                tracing::warn!(%error, requests = requests.len(), "a batch failed; trying its requests one by one");
                for (request, reply) in requests.into_iter().zip(replies) {
                    self.alone(request, reply).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, requests = requests.len(), "could not append to the event log");
                replies.into_iter().for_each(|reply| reply.fail(error.clone()));
            }
        }
    }

    async fn alone(&mut self, request: Request, reply: Reply) {
        match append::commit(&self.pool, &mut self.memory, &[request]).await {
            Ok((mut answers, grown)) => {
                self.announce(grown);
                if let Some(answer) = answers.pop() {
                    reply.send(answer);
                }
            }
            Err(error) => reply.fail(error),
        }
    }

    /// Hands what was committed to this process's live reader, and tells the others. Both are only hints: who
    /// misses one reads by position.
    fn announce(&self, grown: Vec<Grown>) {
        for grown in grown {
            let _ = self.notifier.try_send((grown.partition, grown.last()));
            let _ = self.live.try_send(grown);
        }
    }
}

impl Reply {
    fn send(self, answer: Answer) {
        // A caller that went away does not want its answer; what was committed stays.
        match (self, answer) {
            (Self::Append(reply), Answer::Append(outcome)) => drop(reply.send(outcome)),
            (Self::Ensure(reply), Answer::Ensure(heads)) => drop(reply.send(Ok(heads))),
            (Self::Edit(reply), Answer::Edit(outcome)) => drop(reply.send(outcome)),
            (reply, _) => reply.fail(LogError::Internal("an answer of the wrong kind".to_owned())),
        }
    }

    fn fail(self, error: LogError) {
        match self {
            Self::Append(reply) => drop(reply.send(Err(error))),
            Self::Ensure(reply) => drop(reply.send(Err(error))),
            Self::Edit(reply) => drop(reply.send(Err(documents::failed(error)))),
        }
    }
}
