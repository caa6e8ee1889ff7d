//! What is announced and not kept: published on the channel of its key, beside events.

use super::lane::Shore;
use crate::{
    connection::{Link, linked, on},
    error::RedisError,
    keys::Partition,
};
use event_log::{LogError, Message};
use fred::interfaces::ClientLike;
use futures::future::join_all;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What an announced text begins with, which no event does: those begin with an epoch.
const MARK: char = '!';
/// What is published where a topic has got a new epoch.
pub const RENEWED: &str = "~";
/// How long a caller waits for the server.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before a message is published again.
const RETRY: Duration = Duration::from_millis(50);

/// The message in a published text, where it is one.
pub fn message(text: &str) -> Option<&str> {
    text.strip_prefix(MARK)
}

/// Publishes `messages`, one behind the other on one connection. What a node of a cluster sent on is published again, until
/// the slot has arrived.
pub async fn announce(shore: Arc<Shore>, mut messages: Vec<Message>) -> Result<(), LogError> {
    let link = linked(&shore.links, PATIENCE).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let published = join_all(messages.iter().map(|message| publish(&link, message))).await;
        let mut outcomes = published.into_iter();
        let mut failed = None;
        messages.retain(|_| match outcomes.next() {
            Some(Err(RedisError::SentOn)) => true,
            Some(Err(error)) => {
                failed = Some(error);
                false
            }
            Some(Ok(())) | None => false,
        });
        match failed {
            Some(error) => return Err(error.into()),
            None if messages.is_empty() => return Ok(()),
            None if Instant::now() + RETRY >= deadline => return Err(RedisError::SentOn.into()),
            None => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn publish(link: &Link, message: &Message) -> Result<(), RedisError> {
    let command = on(Partition::of(&message.key), link.announcing.command());
    let text = format!("{MARK}{}", message.body);
    let asked = vec![link.announcing.channel(&message.key), text];
    Ok(link.writes.custom::<(), _>(command, asked).await?)
}
