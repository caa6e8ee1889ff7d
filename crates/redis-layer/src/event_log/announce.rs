//! What is announced and not kept: published on the channel of its key, beside events.

use super::lane::Shore;
use crate::{
    connection::{linked, on},
    error::RedisError,
    keys::Partition,
};
use event_log::{LogError, Message};
use fred::interfaces::ClientLike;
use futures::future::try_join_all;
use std::{sync::Arc, time::Duration};

/// What an announced text begins with, which no event does: those begin with an epoch.
const MARK: char = '!';
/// What is published where a topic has got a new epoch.
pub const RENEWED: &str = "~";
/// How long a caller waits for the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// The message in a published text, where it is one.
pub fn message(text: &str) -> Option<&str> {
    text.strip_prefix(MARK)
}

/// Publishes `messages`, one behind the other on one connection.
pub async fn announce(shore: Arc<Shore>, messages: Vec<Message>) -> Result<(), LogError> {
    let link = linked(&shore.links, PATIENCE).await?;
    let published = messages.into_iter().map(|message| {
        let command = on(Partition::of(&message.key), link.announcing.command());
        let text = format!("{MARK}{}", message.body);
        link.writes.custom::<(), _>(command, vec![link.announcing.channel(&message.key), text])
    });
    try_join_all(published).await.map_err(RedisError::from)?;
    Ok(())
}
