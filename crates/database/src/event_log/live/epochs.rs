//! New epochs of topics of which no event has come: heard of by notice, or by looking.

use super::{LOOKED_AT, Reader};
use event_log::TopicKey;
use tokio::sync::mpsc::error::TrySendError;

impl Reader {
    /// Looks at the epochs of some topics, so that each has its turn.
    pub(super) async fn take_turn(&mut self) {
        if self.turn.is_empty() {
            let followed = self.partitions.values();
            self.turn = followed.flat_map(|followed| followed.wanted.keys().cloned()).collect();
        }
        let rest = self.turn.len().saturating_sub(LOOKED_AT);
        let keys = self.turn.split_off(rest);
        self.compare(keys).await;
    }

    /// Looks at the epochs of a partition's topics; of all where none is named.
    pub(super) async fn look_at_epochs(&mut self, partition: Option<u16>) {
        let followed = self.partitions.iter().filter(|(number, _)| partition.is_none_or(|p| p == **number));
        let keys: Vec<TopicKey> =
            followed.flat_map(|(_, followed)| followed.wanted.keys().cloned()).collect();
        for keys in keys.chunks(LOOKED_AT) {
            self.compare(keys.to_vec()).await;
        }
    }

    /// Tells of those topics that stand in another epoch than was last heard of.
    async fn compare(&mut self, keys: Vec<TopicKey>) {
        if keys.is_empty() {
            return;
        }
        let heads = match self.snapshot(&keys).await {
            Ok(snapshot) => snapshot.heads,
            Err(error) => return tracing::debug!(%error, "could not look at epochs; trying again"),
        };
        for (key, head) in heads {
            let mut followed = self.partitions.values_mut();
            let Some(known) = followed.find_map(|followed| followed.wanted.get_mut(&key)) else { continue };
            // One that finds no room is found again.
            if *known != head.epoch && !matches!(self.tell.try_send(key), Err(TrySendError::Full(_))) {
                *known = head.epoch;
            }
        }
    }
}
