//! This instance's lease and what goes with it: renewing it, entering members again that the store may have lost, taking
//! out those whose leaving it did not take, and seeing to instances whose leases have run out.
//!
//! Renewing waits for nothing else, however much there is to do: an instance that comes too late is taken for dead.

use super::{Channels, HeldKey};
use crate::gateway::lifecycle::{ConnectionRecord, SERVER_LOST};
use ::presence::{Kind, LEASE, Member, PresenceError, RENEW, Renewal};
use event_router::PresenceAction;
use futures::future::join_all;
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};

/// Members that are entered again at a time.
const AT_A_TIME: usize = 500;
/// Members that are taken out at a time.
const OUT_AT_A_TIME: usize = 50;
/// How many are kept whose leaving the store did not take. More go with the lease.
const KEPT: usize = 50_000;
/// How often members are entered again where others may have removed them: who was at it when the lease was renewed may
/// have gone on for a moment.
const ROUNDS: u32 = 2;
/// After so many looks an instance sees to a dead one though another ought to.
const LOOKS: u32 = 3;

/// What the store may lack of this instance's members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// Nothing.
    #[default]
    Nothing,
    /// Some, of which nobody has said that they left.
    Lost,
    /// Some that others removed, and said so.
    Removed,
}

/// What renewing tells those who work beside it.
#[derive(Default)]
struct Standing {
    /// Since when each renewal has been answered, and the lease held.
    held_since: Option<Instant>,
    lack: Lack,
}

/// This instance's lease.
#[derive(Default)]
pub(super) struct Lease {
    standing: Mutex<Standing>,
    /// Told of each renewal.
    renewed: Notify,
    /// Who has left without the store's taking it, and the member, where others know of it.
    leaving: Mutex<HashMap<HeldKey, Option<Member>>>,
}

impl Lease {
    /// Remembers somebody who is still to be taken out.
    pub(super) fn keep(&self, key: HeldKey, known: Option<Member>) {
        let mut leaving = self.leaving.lock();
        if leaving.len() < KEPT {
            leaving.insert(key, known);
        }
    }

    /// Somebody who was to be taken out comes again.
    pub(super) fn forget(&self, key: &HeldKey) {
        self.leaving.lock().remove(key);
    }

    fn doubt(&self, lack: Lack) {
        let mut standing = self.standing.lock();
        standing.lack = standing.lack.max(lack);
    }
}

impl Channels {
    /// Holds this instance's lease and does what goes with it.
    pub(super) async fn keep_lease(&self) {
        tokio::join!(self.renew_lease(), self.serve_lease());
    }

    async fn renew_lease(&self) {
        let mut tick = tokio::time::interval(RENEW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut is_doubtful, mut rounds) = (false, 0);
        // When the renewal was sent that was answered last: nobody takes this instance for dead until a lease later.
        let mut last: Option<Instant> = None;
        loop {
            tick.tick().await;
            let sent = Instant::now();
            let renewal = match self.store.renew(&self.instance).await {
                Ok(renewal) => renewal,
                Err(error) => {
                    self.lease.standing.lock().held_since = None;
                    // Said once, however long it lasts.
                    if !std::mem::replace(&mut is_doubtful, true) {
                        tracing::warn!(%error, "the lease on this instance's members could not be renewed; trying on");
                    }
                    continue;
                }
            };
            if is_doubtful {
                tracing::info!("the lease on this instance's members is renewed again");
            }
            let is_unbroken = last.replace(sent).is_some_and(|last| last.elapsed() < LEASE);
            let may_lack = std::mem::take(&mut is_doubtful) || renewal != Renewal::Held;
            if renewal == Renewal::Lapsed || (may_lack && !is_unbroken) {
                rounds = ROUNDS;
            }
            if rounds > 0 {
                rounds -= 1;
                self.lease.doubt(Lack::Removed);
            } else if may_lack {
                self.lease.doubt(Lack::Lost);
            }
            self.renewed(renewal, sent);
        }
    }

    fn renewed(&self, renewal: Renewal, sent: Instant) {
        let mut standing = self.lease.standing.lock();
        if renewal == Renewal::Lapsed {
            standing.held_since = None;
        }
        standing.held_since.get_or_insert(sent);
        drop(standing);
        if renewal == Renewal::Lapsed && self.registry.lifecycle.is_leased() {
            self.registry.note_again();
        }
        self.registry.lifecycle.leased();
        self.lease.renewed.notify_one();
    }

    /// Does after each renewal what there is to do.
    async fn serve_lease(&self) {
        let mut looks = HashMap::new();
        loop {
            self.lease.renewed.notified().await;
            self.take_out_again().await;
            let lack = std::mem::take(&mut self.lease.standing.lock().lack);
            if lack > Lack::Nothing
                && let Err(error) = self.enter_again(lack).await
            {
                tracing::warn!(%error, "members could not be entered again; tried again soon");
                self.lease.doubt(lack);
            }
            let held_since = self.lease.standing.lock().held_since;
            // Where the store did not answer for a while, the leases of the living have run out too: they renew first.
            if held_since.is_some_and(|since| since.elapsed() >= LEASE) {
                self.look_for_the_dead(&mut looks).await;
            }
        }
    }

    /// Takes those out whose leaving the store did not take, until it fails again.
    async fn take_out_again(&self) {
        let leaving: Vec<_> = std::mem::take(&mut *self.lease.leaving.lock()).into_iter().collect();
        let mut chunks = leaving.chunks(OUT_AT_A_TIME);
        for some in chunks.by_ref() {
            let taken = some.iter().map(|(key, known)| self.take_out(key, known.clone()));
            let all = join_all(taken).await.iter().all(Result::is_ok);
            let held = self.held.lock();
            if some.iter().any(|(key, _)| held.contains_key(key)) {
                // It came again meanwhile, and may have been taken out behind that.
                self.lease.doubt(Lack::Removed);
            }
            if !all {
                break;
            }
        }
        for (key, known) in chunks.flatten() {
            self.lease.keep(key.clone(), known.clone());
        }
    }

    /// Enters the members of this instance again, and says so of those that others said had left.
    async fn enter_again(&self, lack: Lack) -> Result<(), PresenceError> {
        // Who is being entered at this moment need not be entered again.
        let settled = |(key, held): (&HeldKey, &super::Held)| (!held.is_entering).then(|| key.clone());
        let mut keys: Vec<HeldKey> = self.held.lock().iter().filter_map(settled).collect();
        while !keys.is_empty() {
            let mut changed = Vec::new();
            for some in keys.chunks(AT_A_TIME) {
                changed.extend(self.enter_some_again(some, lack).await?);
            }
            keys = changed;
        }
        Ok(())
    }

    /// Answers those that changed meanwhile: what they were may stand over what they are.
    async fn enter_some_again(&self, keys: &[HeldKey], lack: Lack) -> Result<Vec<HeldKey>, PresenceError> {
        let member = |key: &HeldKey| self.held.lock().get(key).map(|held| held.member.clone());
        let entered: Vec<(HeldKey, Member)> =
            keys.iter().filter_map(|key| Some((key.clone(), member(key)?))).collect();
        let members =
            entered.iter().map(|((scope, place, _), member)| (scope.clone(), place.clone(), member.clone()));
        let was_missing = self.store.enter_again(&self.instance, members.collect()).await?;
        let (mut changed, mut come) = (Vec::new(), Vec::new());
        for ((key, then), was_missing) in entered.iter().zip(was_missing) {
            match member(key) {
                None => self.take_out_silently(key).await,
                Some(now) if now != *then => changed.push(key.clone()),
                Some(_) if was_missing && key.1.kind != Kind::Channel => come.push((&key.0, &key.1, then)),
                Some(_) => {}
            }
        }
        if lack == Lack::Removed {
            self.tell_all(&come, PresenceAction::Enter).await;
        }
        Ok(changed)
    }

    /// Takes somebody out who left while it was entered again: whoever leaves says so itself.
    async fn take_out_silently(&self, key: &HeldKey) {
        let (scope, place, socket) = key;
        if self.store.leave(scope, place, socket).await.is_err() {
            self.lease.keep(key.clone(), None);
        }
    }

    /// Sees to the dead. The first of the living does at once, and the others where it does not, so that what there is
    /// to say is said once and not by all.
    async fn look_for_the_dead(&self, looks: &mut HashMap<String, u32>) {
        let found =
            async { Ok::<_, PresenceError>((self.store.dead().await?, self.store.instances().await?)) };
        let (dead, living) = match found.await {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "dead instances could not be looked for"),
        };
        looks.retain(|instance, _| dead.contains(instance));
        let is_first = living.first() == Some(&self.instance);
        for instance in dead {
            let seen = looks.entry(instance.clone()).or_insert(0);
            *seen += 1;
            if !is_first && *seen < LOOKS {
                continue;
            }
            let ended = |record: &ConnectionRecord| self.registry.note_end(record, SERVER_LOST);
            match self.registry.lifecycle.see_to(&instance, ended).await {
                Ok(gone) => {
                    let gone = gone.iter().filter(|gone| gone.place.kind != Kind::Channel);
                    let gone: Vec<_> = gone.map(|gone| (&gone.scope, &gone.place, &gone.member)).collect();
                    self.say_all(&gone, PresenceAction::Leave).await;
                }
                Err(error) => {
                    tracing::warn!(error, instance, "what a dead instance left could not be seen to")
                }
            }
        }
    }

    /// Gives the lease back, so that members whose connections did not end in order are gone at once.
    pub async fn retire(&self) {
        if let Err(error) = self.store.retire(&self.instance).await {
            tracing::debug!(%error, "the lease on this instance's members could not be given back");
        }
    }
}
