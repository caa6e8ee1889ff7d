//! What is said under a topic's key: channel messages and who is present. It has no position and no order against
//! events.

use super::{Stage, Topic};
use crate::{
    message::{Content, Listener, LiveMessage},
    outbox::Outbox,
    outgoing::Outgoing,
};
use event_log::LogError;
use shared_types::SubscriptionId;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::oneshot;

/// A wish to hear what is said.
pub struct Join {
    /// Who hears it.
    pub listener: Listener,
    /// Answered once nothing is missed any more.
    pub reply: oneshot::Sender<Result<(), LogError>>,
}

impl Topic {
    /// Lets a connection hear what is said from now on.
    pub fn join(&mut self, join: Join) {
        if matches!(self.stage, Stage::Opening) {
            self.joining.push(join);
            return;
        }
        if join.listener.outbox.closed().is_none() {
            self.listeners.insert(join.listener.outbox.connection(), join.listener);
        }
        // Whoever asked may have gone.
        let _ = join.reply.send(Ok(()));
    }

    /// The connection hears nothing any more.
    pub fn part(&mut self, connection: u64) {
        self.listeners.remove(&connection);
        self.joining.retain(|join| join.listener.outbox.connection() != connection);
    }

    /// Something was said under the key.
    pub fn message(&mut self, message: &Arc<LiveMessage>) {
        let (is_saying, speaker) = match &message.content {
            Content::Said(saying) if saying.echo => (true, None),
            Content::Said(saying) => (true, saying.from.socket_id.as_deref()),
            Content::Presence(change) => (false, change.member["socketId"].as_str()),
            Content::Traffic(_) => (false, None),
            Content::Mail(_) => return,
        };
        let mut heard = 0;
        for listener in self.listeners.values() {
            if (!is_saying || listener.hears_sayings) && speaker != Some(&*listener.socket_id) {
                heard += 1;
                listener.outbox.push_quietly(Outgoing::Message(message.clone()));
            }
        }
        if is_saying {
            heard += self.tell_subscribers(message, speaker);
        }
        self.metrics.messages_delivered.inc_by(heard);
    }

    /// Those who subscribed to a topic of the channel's name receive it as an event.
    fn tell_subscribers(&mut self, message: &Arc<LiveMessage>, speaker: Option<&str>) -> u64 {
        if self.index.is_empty() {
            return 0;
        }
        let mut told: HashMap<u64, (Arc<Outbox>, Vec<SubscriptionId>, bool)> = HashMap::new();
        for group in self.index.matching_payload(|| message.payload()) {
            for member in self.index.members(group) {
                let subscription = &member.subscription;
                if speaker == Some(&*subscription.socket_id) {
                    continue;
                }
                let outbox = &subscription.outbox;
                let place = told.entry(outbox.connection());
                let (_, ids, several) = place.or_insert_with(|| (outbox.clone(), Vec::new(), false));
                ids.push(subscription.id.clone());
                *several |= member.several;
            }
        }
        let count = told.len() as u64;
        for (outbox, ids, several) in told.into_values() {
            let subscriptions = several.then(|| ids.into_boxed_slice());
            outbox.push_quietly(Outgoing::MessageEvent { message: message.clone(), subscriptions });
        }
        count
    }
}
