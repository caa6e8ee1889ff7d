//! Hands on what is appended in PostgreSQL, by a transaction that also changes something there, to the log on Redis.
//!
//! Every process does so, without a leader: all hand on in the same order and by id, so that whoever comes second
//! appends nothing.

use database::{
    Pool,
    event_log::{Growth, end_group, unread},
};
use event_log::{Entry, EventLog, Identity, LogError, SideEffect, SideEffectReader, StoredEvent};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The group as which the relay reads.
const GROUP: &str = "redis";
/// The producer as which it appends.
const PRODUCER: &str = "relay";
/// Events handed on at a time.
const BATCH: usize = 500;
/// How often it looks by itself.
const LOOK: Duration = Duration::from_millis(500);

/// Hands on from one log to the other, until `stop`.
pub async fn run(pool: Pool, from: Arc<dyn EventLog>, to: Arc<dyn EventLog>, stop: CancellationToken) {
    let mut relay = Relay { pool, from, to, reader: None, growth: None };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = relay.turn() => {}
        }
    }
}

/// Ends the relay's reading, which would keep everything from being removed; until it succeeds, or `stop`.
pub async fn end(pool: Pool, stop: CancellationToken) {
    while end_group(&pool, GROUP).await.is_err() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    stop.cancelled().await;
}

struct Relay {
    pool: Pool,
    from: Arc<dyn EventLog>,
    to: Arc<dyn EventLog>,
    reader: Option<Arc<dyn SideEffectReader>>,
    growth: Option<Growth>,
}

impl Relay {
    /// Hands on what there is, and waits for more. Dropped at any point it loses nothing.
    async fn turn(&mut self) {
        if let Err(error) = self.hand_on().await {
            tracing::debug!(%error, "could not hand events on to redis; trying again");
            tokio::time::sleep(LOOK).await;
            return;
        }
        let Some(growth) = &mut self.growth else { return };
        match tokio::time::timeout(LOOK, growth.grown()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => self.growth = None,
        }
    }

    async fn hand_on(&mut self) -> Result<(), LogError> {
        let reader = match &self.reader {
            Some(reader) => reader.clone(),
            None => self.reader.insert(self.from.side_effects(GROUP).await?).clone(),
        };
        if self.growth.is_none() {
            self.growth = Some(Growth::listen(&self.pool).await?);
        }
        for partition in unread(&self.pool, GROUP).await? {
            while self.hand_on_some(&*reader, partition).await? == BATCH {}
        }
        Ok(())
    }

    async fn hand_on_some(&self, reader: &dyn SideEffectReader, partition: u16) -> Result<usize, LogError> {
        let read = reader.read(partition, BATCH).await?;
        let Some(SideEffect { sequence, .. }) = read.last() else { return Ok(0) };
        self.to.append(read.iter().map(|effect| entry(&effect.event)).collect()).await?;
        reader.acknowledge(partition, *sequence).await?;
        Ok(read.len())
    }
}

fn entry(event: &StoredEvent) -> Entry {
    Entry {
        key: event.key.clone(),
        id: event.id.clone(),
        source: event.source,
        kind: event.kind.clone(),
        payload: event.payload.clone(),
        metadata: event.metadata.clone(),
        identity: Identity::Keyed { producer: PRODUCER.into() },
    }
}
