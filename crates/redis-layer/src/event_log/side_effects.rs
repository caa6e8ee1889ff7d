//! Side-effect readers: each group reads every partition by position and acknowledges what is done.

use super::{PATIENCE, encode, history::entries, lane::Shore};
use crate::{
    connection::{bounded, linked, run_script},
    error::RedisError,
    generation::Settled,
    keys::Partition,
};
use event_log::{LogError, SideEffect, SideEffectReader};
use fred::{bytes_utils::Str, types::Value};
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// How often a script is tried that the server does not know.
const ATTEMPTS: usize = 3;
/// How long to wait before that.
const AGAIN: Duration = Duration::from_millis(20);

struct GroupReader {
    shore: Arc<Shore>,
    group: String,
}

/// Opens `group`, which begins at the head of every partition when it is first named.
pub async fn open(shore: Arc<Shore>, group: String) -> Result<Arc<dyn SideEffectReader>, LogError> {
    let group = group.as_str();
    let all = Partition::all().map(|partition| {
        run(&shore, partition, move |settled| Call {
            script: settled.scripts.open_group.clone(),
            keys: vec![partition.meta(), partition.groups()],
            arguments: vec![settled.generation.as_str().into(), group.into()],
        })
    });
    futures::future::try_join_all(all).await?;
    let group = group.to_owned();
    Ok(Arc::new(GroupReader { shore: shore.clone(), group }))
}

/// A script with what it is given.
pub struct Call {
    /// Its name.
    pub script: Str,
    /// `KEYS`.
    pub keys: Vec<String>,
    /// `ARGV`.
    pub arguments: Vec<Value>,
}

/// Runs a script that may be run twice.
pub async fn run(
    shore: &Shore,
    partition: Partition,
    call: impl Fn(&Settled) -> Call,
) -> Result<Value, LogError> {
    bounded(attempts(shore, partition, call)).await
}

async fn attempts(
    shore: &Shore,
    partition: Partition,
    call: impl Fn(&Settled) -> Call,
) -> Result<Value, LogError> {
    let mut last = RedisError::UnknownScript;
    for _ in 0..ATTEMPTS {
        let (link, settled) = (linked(&shore.links, PATIENCE).await?, shore.guard.settled(PATIENCE).await?);
        let Call { script, keys, arguments } = call(&settled);
        match run_script(&link.reads, &script, partition, keys, arguments).await {
            Ok(Value::String(answer)) if &*answer == "G" => shore.guard.doubt(&settled),
            Ok(answer) => return Ok(answer),
            Err(RedisError::UnknownScript) => shore.guard.doubt(&settled),
            Err(error @ RedisError::Internal(_)) => return Err(error.into()),
            Err(error) => {
                last = error;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    Err(last.into())
}

impl SideEffectReader for GroupReader {
    fn read(&self, partition: u16, limit: usize) -> BoxFuture<'_, Result<Vec<SideEffect>, LogError>> {
        Box::pin(async move {
            let place = Partition(partition);
            let found = run(&self.shore, place, |settled| Call {
                script: settled.scripts.read_group.clone(),
                keys: vec![place.side_effects(), place.groups()],
                arguments: vec![self.group.as_str().into(), limit.to_string().into()],
            });
            let read = entries(found.await?)?.into_iter().map(|(id, text)| {
                let sequence = id.split('-').next().and_then(|number| number.parse().ok());
                let sequence =
                    sequence.ok_or_else(|| LogError::Internal("an id cannot be read".to_owned()))?;
                Ok(SideEffect { partition, sequence, event: Arc::new(encode::decode(&text)?) })
            });
            read.collect()
        })
    }

    fn acknowledge(&self, partition: u16, sequence: u64) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let place = Partition(partition);
            let done = run(&self.shore, place, |settled| Call {
                script: settled.scripts.acknowledge.clone(),
                keys: vec![place.groups()],
                arguments: vec![self.group.as_str().into(), sequence.to_string().into()],
            });
            done.await.map(|_| ())
        })
    }
}
