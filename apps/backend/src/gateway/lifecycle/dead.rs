//! What went with instances that died: said here, and only then removed from where they had written it down.

use super::{BATCH, ConnectionRecord, Failure, Lifecycle, SERVER_LOST, form};
use event_router::{PresenceAction, Routed};
use presence::{Gone, Kind};

impl Lifecycle {
    /// Says what went with `instance`, whose lease has run out, and removes it; `ended` is told of each connection behind
    /// its `socket.disconnect`. Answers the members that were removed here and not by another who looks too. Who dies in
    /// the middle leaves the rest to the next.
    ///
    /// # Errors
    /// Where store or log do not answer.
    pub async fn see_to(
        &self,
        instance: &str,
        ended: impl Fn(&ConnectionRecord),
    ) -> Result<Vec<Gone>, String> {
        self.try_to_see_to(instance, ended).await.map_err(|error| error.to_string())
    }

    async fn try_to_see_to(
        &self,
        instance: &str,
        ended: impl Fn(&ConnectionRecord),
    ) -> Result<Vec<Gone>, Failure> {
        loop {
            let records = self.store.records(instance, BATCH).await?;
            if records.is_empty() {
                break;
            }
            let lost: Vec<_> =
                records.iter().filter_map(|record| ConnectionRecord::read(&record.text)).collect();
            if !lost.is_empty() {
                let ends = lost.iter().map(|record| form::disconnected(record, SERVER_LOST)).collect();
                self.router.route(ends).await?;
                lost.iter().for_each(&ended);
            }
            let keys = records.into_iter().map(|record| record.key).collect();
            self.store.release(instance, keys).await?;
        }
        let left = self.store.left_by(instance).await?;
        let leaves: Vec<Routed> = left
            .iter()
            .filter(|gone| gone.place.kind != Kind::Channel)
            .map(|gone| form::presence(&gone.scope, &gone.place, PresenceAction::Leave, &gone.member))
            .collect();
        for some in leaves.chunks(BATCH) {
            self.router.route(some.to_vec()).await?;
        }
        Ok(self.store.reap(instance).await?)
    }
}
