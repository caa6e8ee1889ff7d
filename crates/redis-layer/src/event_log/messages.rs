//! From the library's broadcast, which forgets what is not taken in time, into a queue of our own that says so.

use crate::connection::Link;
use fred::{bytes_utils::Str, interfaces::EventInterface};
use tokio::sync::{
    broadcast::error::RecvError,
    mpsc::{self, error::TrySendError},
};

/// What a subscribed connection brings.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message {
        /// Its channel.
        channel: Str,
        /// Its text.
        text: Str,
    },
    /// Messages may have been missed.
    Missed,
    /// The connection was made anew, or a slot has moved: it may be subscribed to nothing.
    Lapsed,
}

/// What is still to be said once there is room.
#[derive(Default)]
struct Pending {
    missed: bool,
    lapsed: bool,
}

impl Pending {
    fn take(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.lapsed) {
            return Some(Heard::Lapsed);
        }
        std::mem::take(&mut self.missed).then_some(Heard::Missed)
    }
}

/// Moves what `link` hears into `out` until either ends. Never waits: what finds no room is missed, and said so.
pub async fn pump(link: &Link, out: mpsc::Sender<Heard>) {
    let (mut messages, mut lapses) = (link.subscriber.message_rx(), link.lapses.clone());
    let mut pending = Pending::default();
    loop {
        tokio::select! {
            biased;
            lapsed = lapses.changed() => {
                if lapsed.is_err() {
                    return;
                }
                pending.lapsed = true;
            }
            permit = out.reserve(), if pending.missed || pending.lapsed => {
                let Ok(permit) = permit else { return };
                if let Some(heard) = pending.take() {
                    permit.send(heard);
                }
            }
            message = messages.recv() => match message {
                Ok(message) => {
                    let Some(text) = message.value.into_bytes_str() else { continue };
                    match out.try_send(Heard::Message { channel: message.channel, text }) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => pending.missed = true,
                        Err(TrySendError::Closed(_)) => return,
                    }
                }
                Err(RecvError::Lagged(_)) => pending.missed = true,
                Err(RecvError::Closed) => return,
            },
        }
    }
}
