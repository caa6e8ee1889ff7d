//! Who comes and goes, and what is said of it.

use super::{Channels, HeldKey, member_json, place_members};
use crate::gateway::{lifecycle, registry::happened};
use ::presence::{Gone, Kind, LEASE, MEMBERS, Member, Place, RENEW, Renewal};
use event_router::{Content, PresenceAction, PresenceChange};
use serde_json::json;
use shared_types::{Problem, Scope};
use std::collections::HashMap;
use tokio::time::Instant;

/// Members that are entered again at a time.
const AGAIN: usize = 100;
/// After so many looks an instance sees to a dead one though another ought to.
const LOOKS: u32 = 3;

impl Channels {
    /// Puts a member into a place, says so to those who are there, and answers who is.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn enter(&self, scope: &Scope, place: &Place, member: Member) -> Result<Vec<Member>, Problem> {
        if place.kind != Kind::Channel {
            self.registry.lifecycle.demand_room()?;
        }
        let socket = member.socket_id.clone();
        let entered = self.store.enter(scope, place, &self.instance, member).await?;
        self.held.lock().insert((scope.clone(), place.clone(), socket), entered.member.clone());
        if place.kind != Kind::Channel {
            let mut action = if entered.is_new { PresenceAction::Enter } else { PresenceAction::Update };
            for (instance, old) in entered.elsewhere {
                // The client may have lost its instance and come back here; or it is there a second time.
                if !self.is_alive(scope, &instance, &old.socket_id).await {
                    self.store.leave(scope, place, &old.socket_id).await?;
                    action = PresenceAction::Update;
                }
            }
            self.tell(scope, place, action, &entered.member).await;
        }
        Ok(self.store.members(scope, place, None, MEMBERS).await?)
    }

    /// Takes a connection out of a place and says so.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Result<(), Problem> {
        self.held.lock().remove(&(scope.clone(), place.clone(), socket_id.to_owned()));
        if let Some(member) = self.store.leave(scope, place, socket_id).await?
            && place.kind != Kind::Channel
        {
            self.tell(scope, place, PresenceAction::Leave, &member).await;
        }
        Ok(())
    }

    /// Tells a change to everybody: side-effect readers, who watches the traffic, and those who are there.
    async fn tell(&self, scope: &Scope, place: &Place, action: PresenceAction, member: &Member) {
        self.registry.lifecycle.happened(lifecycle::presence(scope, place, action, member));
        self.say(scope, place, action, member).await;
    }

    /// Announces a change. One that cannot be is not made undone: members are asked for by `presence:get`.
    async fn say(&self, scope: &Scope, place: &Place, action: PresenceAction, member: &Member) {
        self.registry.traffic.note(scope, || {
            let mut members = place_members(place);
            members["action"] = json!(action);
            members["socketId"] = member.socket_id.as_str().into();
            members["clientId"] = member.client_id.as_str().into();
            happened("presence.updated", members)
        });
        let document = place.as_document().map(|(service, id)| json!({ "service": service, "id": id }));
        let change = PresenceChange { action, member: member_json(member), document };
        let key = Self::key_of(scope, place);
        if let Err(error) = self.announce(key, &Content::Presence(change)).await {
            tracing::warn!(%error, "a change of presence could not be announced");
        }
    }

    /// Holds this instance's lease and sees to those whose leases have run out.
    pub(super) async fn keep_lease(&self) {
        let mut tick = tokio::time::interval(RENEW);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut held_since = None;
        let mut looks = HashMap::new();
        let mut may_lack = false;
        loop {
            tick.tick().await;
            match self.store.renew(&self.instance).await {
                Ok(Renewal::Held) => {}
                Ok(Renewal::Emptied) => may_lack = true,
                Ok(Renewal::Lapsed) => {
                    (held_since, may_lack) = (None, true);
                    if self.registry.lifecycle.is_leased() {
                        self.registry.note_again();
                    }
                }
                Err(error) => {
                    (held_since, may_lack) = (None, true);
                    tracing::warn!(%error, "the lease on this instance's members could not be renewed");
                    continue;
                }
            }
            if may_lack {
                may_lack = !self.enter_again().await;
            }
            self.registry.lifecycle.leased();
            // Where the store did not answer for a while, the leases of the living have run out too: they renew first.
            if held_since.get_or_insert_with(Instant::now).elapsed() >= LEASE {
                self.look_for_the_dead(&mut looks).await;
            }
        }
    }

    /// Sees to the dead. The first of the living does at once, and the others where it does not, so that what there is
    /// to say is said once and not by all.
    async fn look_for_the_dead(&self, looks: &mut HashMap<String, u32>) {
        let found = async {
            Ok::<_, ::presence::PresenceError>((self.store.dead().await?, self.store.instances().await?))
        };
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
            match self.registry.lifecycle.see_to(&instance).await {
                Ok(gone) => self.announce_gone(&gone).await,
                Err(error) => {
                    tracing::warn!(error, instance, "what a dead instance left could not be seen to")
                }
            }
        }
    }

    async fn announce_gone(&self, gone: &[Gone]) {
        for gone in gone.iter().filter(|gone| gone.place.kind != Kind::Channel) {
            self.say(&gone.scope, &gone.place, PresenceAction::Leave, &gone.member).await;
        }
    }

    /// Enters all members of this instance again; answers whether that worked for each.
    async fn enter_again(&self) -> bool {
        let held: Vec<(HeldKey, Member)> =
            self.held.lock().iter().map(|(key, member)| (key.clone(), member.clone())).collect();
        let mut all = true;
        for chunk in held.chunks(AGAIN) {
            let entering = chunk.iter().map(|(key, member)| self.enter_one_again(key, member));
            for entered in futures::future::join_all(entering).await {
                if let Err(error) = entered {
                    tracing::warn!(%error, "a member could not be entered again; tried again soon");
                    all = false;
                }
            }
        }
        all
    }

    async fn enter_one_again(&self, key: &HeldKey, member: &Member) -> Result<(), Problem> {
        let (scope, place, socket) = key;
        // Who has left since the list was made stays away.
        if !self.held.lock().contains_key(key) {
            return Ok(());
        }
        let entered = self.store.enter(scope, place, &self.instance, member.clone()).await?;
        if entered.is_new && place.kind != Kind::Channel {
            self.tell(scope, place, PresenceAction::Enter, &entered.member).await;
        }
        if !self.held.lock().contains_key(key) {
            self.leave(scope, place, socket).await?;
        }
        Ok(())
    }

    /// Gives the lease back, so that members whose connections did not end in order are gone at once.
    pub async fn retire(&self) {
        if let Err(error) = self.store.retire(&self.instance).await {
            tracing::debug!(%error, "the lease on this instance's members could not be given back");
        }
    }
}
