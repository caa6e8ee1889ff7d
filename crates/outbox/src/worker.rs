//! The loop over one outbox: woken by NOTIFY, looking once a second, cleaning up.

use crate::{
    batch::{self, Turn},
    halted::Halted,
    source::{AT_A_TIME, Source, limited},
    table,
    trouble::OutboxError,
};
use database::tables::outbox::{self as status, Seen};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::postgres::PgListener;
use std::{sync::Mutex, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often the worker looks by itself.
const LOOK: Duration = Duration::from_secs(1);
/// How often what waits is counted and shown.
const SHOW: Duration = Duration::from_secs(5);
/// How often old rows are removed.
const CLEAN: Duration = Duration::from_secs(600);
/// Rows removed by one statement.
const CLEAN_CHUNK: i64 = 5_000;
const RELISTEN: Duration = Duration::from_secs(5);
/// The channel of the trigger.
const CHANNEL: &str = "event_outbox";

/// Reads one outbox.
pub struct Worker {
    source: Source,
    halted: Mutex<Halted>,
    clean_at: Instant,
    show_at: Instant,
}

impl Worker {
    /// A worker that does nothing until [`Worker::run`].
    pub fn new(source: Source) -> Self {
        let now = Instant::now();
        Self { source, halted: Mutex::default(), clean_at: now, show_at: now }
    }

    /// Reads until `stop`, or until its database fails.
    ///
    /// What was claimed when `stop` comes is finished first.
    ///
    /// # Errors
    /// The failure, after which the outbox is to be asked anew who and whose it is.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<(), OutboxError> {
        let (wake, mut woken) = mpsc::channel(1);
        let listening = listen(&self.source, wake);
        tokio::pin!(listening);
        while !stop.is_cancelled() {
            let has_more = limited(pass(&self.source, &self.halted, stop)).await?;
            limited(upkeep(&self.source, &self.halted, &mut self.clean_at, &mut self.show_at)).await?;
            if has_more {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = &mut listening => {}
                _ = woken.recv() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }
}

/// Gives every partition in which rows wait one turn; answers whether there may be more.
async fn pass(
    source: &Source,
    halted: &Mutex<Halted>,
    stop: &CancellationToken,
) -> Result<bool, OutboxError> {
    let waiting = halted.lock().expect("nobody panics while holding it").waiting(std::time::Instant::now());
    let partitions = table::pending(&source.pool, source.form(), &waiting).await?;
    let turns = stream::iter(partitions).map(|partition| async move {
        if stop.is_cancelled() { Ok(Turn::Through) } else { batch::turn(source, halted, partition).await }
    });
    let turns: Vec<Turn> = turns.buffer_unordered(AT_A_TIME).try_collect().await?;
    Ok(turns.contains(&Turn::More))
}

/// Shows what waits, and removes what is over, each in its time.
async fn upkeep(
    source: &Source,
    halted: &Mutex<Halted>,
    clean_at: &mut Instant,
    show_at: &mut Instant,
) -> Result<(), OutboxError> {
    let now = Instant::now();
    if now >= *show_at {
        *show_at = now + SHOW;
        let backlog = table::backlog(&source.pool).await?;
        source.metrics.set_outbox_lag(
            &source.outbox.producer,
            backlog.lag_seconds,
            backlog.pending.unsigned_abs(),
        );
        let halted = still_halted(source, halted).await?;
        let seen = Seen::Read { pending: backlog.pending, oldest_ms: backlog.oldest_ms, halted: &halted };
        status::show(&source.platform, source.outbox.owner.as_ref(), &seen).await?;
    }
    if now >= *clean_at {
        *clean_at = now + CLEAN;
        clean(source).await?;
    }
    Ok(())
}

/// The topics that stand still, without those that have nothing left to go on with here.
async fn still_halted(source: &Source, halted: &Mutex<Halted>) -> Result<Vec<String>, OutboxError> {
    let locked = || halted.lock().expect("nobody panics while holding it");
    let topics = locked().topics();
    if topics.is_empty() {
        return Ok(topics);
    }
    let waiting = table::waiting(&source.pool, source.form(), &topics).await?;
    let mut halted = locked();
    halted.forget(&topics, &waiting);
    Ok(halted.topics())
}

/// Removes rows that were done more than 24 h ago, and lets the log forget their ids.
async fn clean(source: &Source) -> Result<(), OutboxError> {
    loop {
        let gone = table::clean(&source.pool, source.form(), CLEAN_CHUNK).await?;
        let ids: Vec<_> = gone
            .iter()
            .map(|row| (source.outbox.scope(row), row.topic.as_str(), source.outbox.event_id(row)))
            .collect();
        database::event_log::forget_ids(&source.platform, &source.outbox.producer, &ids).await?;
        if (gone.len() as i64) < CLEAN_CHUNK {
            return Ok(());
        }
    }
}

/// Passes on what the trigger says. A database through which it cannot be heard is looked at every second.
async fn listen(source: &Source, wake: mpsc::Sender<()>) {
    loop {
        if let Err(error) = hear(source, &wake).await {
            tracing::debug!(%error, outbox = %source.outbox.producer, "not woken by the outbox; looking every second");
        }
        tokio::time::sleep(RELISTEN).await;
    }
}

async fn hear(source: &Source, wake: &mpsc::Sender<()>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&source.pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        listener.recv().await?;
        // A full channel holds a wake-up already.
        let _ = wake.try_send(());
    }
}
