//! From the library's broadcast, which forgets what is not taken in time, into a queue of our own that says so.

use fred::{bytes_utils::Str, clients::Client, interfaces::EventInterface};
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
    /// The connection was made anew: it is subscribed to nothing.
    Reconnected,
}

/// What is still to be said once there is room.
#[derive(Default)]
struct Pending {
    missed: bool,
    reconnected: bool,
}

impl Pending {
    fn take(&mut self) -> Option<Heard> {
        if std::mem::take(&mut self.reconnected) {
            return Some(Heard::Reconnected);
        }
        std::mem::take(&mut self.missed).then_some(Heard::Missed)
    }
}

/// Moves what `client` hears into `out` until either ends. Never waits: what finds no room is missed, and said so.
pub async fn pump(client: Client, out: mpsc::Sender<Heard>) {
    let (mut messages, mut reconnects) = (client.message_rx(), client.reconnect_rx());
    let mut pending = Pending::default();
    loop {
        tokio::select! {
            biased;
            reconnected = reconnects.recv() => match reconnected {
                Ok(_) | Err(RecvError::Lagged(_)) => pending.reconnected = true,
                Err(RecvError::Closed) => return,
            },
            permit = out.reserve(), if pending.missed || pending.reconnected => {
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
