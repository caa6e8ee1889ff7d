//! Who comes and goes, and what is said of it.

use super::{Channels, HeldKey, member_json};
use ::presence::{Kind, MEMBERS, Member, Place, RENEW};
use event_router::{Content, PresenceAction, PresenceChange};
use serde_json::json;
use shared_types::{Problem, Scope};

/// Members that are entered again at a time.
const AGAIN: usize = 100;

impl Channels {
    /// Puts a member into a place, says so to those who are there, and answers who is.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn enter(&self, scope: &Scope, place: &Place, member: Member) -> Result<Vec<Member>, Problem> {
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
            self.say(scope, place, action, &entered.member).await;
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
            self.say(scope, place, PresenceAction::Leave, &member).await;
        }
        Ok(())
    }

    /// Announces a change. One that cannot be is not made undone: members are asked for by `presence:get`.
    async fn say(&self, scope: &Scope, place: &Place, action: PresenceAction, member: &Member) {
        let document = place.as_document().map(|(service, id)| json!({ "service": service, "id": id }));
        let change = PresenceChange { action, member: member_json(member), document };
        let key = Self::key_of(scope, place);
        if let Err(error) = self.announce(key, &Content::Presence(change)).await {
            tracing::warn!(%error, "a change of presence could not be announced");
        }
    }

    /// Holds this instance's lease and removes the members of those whose leases have run out.
    pub(super) async fn keep_lease(&self) {
        let mut tick = tokio::time::interval(RENEW);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.store.renew(&self.instance).await {
                Ok(true) => {}
                // The lease had run out, or there was none yet.
                Ok(false) => self.enter_again().await,
                Err(error) => {
                    tracing::warn!(%error, "the lease on this instance's members could not be renewed");
                    continue;
                }
            }
            match self.store.reap().await {
                Ok(gone) => {
                    for gone in gone.iter().filter(|gone| gone.place.kind != Kind::Channel) {
                        self.say(&gone.scope, &gone.place, PresenceAction::Leave, &gone.member).await;
                    }
                }
                Err(error) => tracing::warn!(%error, "dead instances' members could not be removed"),
            }
        }
    }

    async fn enter_again(&self) {
        let held: Vec<(HeldKey, Member)> =
            self.held.lock().iter().map(|(key, member)| (key.clone(), member.clone())).collect();
        for chunk in held.chunks(AGAIN) {
            let entering = chunk.iter().map(async |((scope, place, _), member)| {
                let entered = self.store.enter(scope, place, &self.instance, member.clone()).await;
                match entered {
                    Ok(entered) if entered.is_new && place.kind != Kind::Channel => {
                        self.say(scope, place, PresenceAction::Enter, &entered.member).await;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "a member could not be entered again"),
                }
            });
            futures::future::join_all(entering).await;
        }
    }

    /// Gives the lease back, so that members whose connections did not end in order are gone at once.
    pub async fn retire(&self) {
        if let Err(error) = self.store.retire(&self.instance).await {
            tracing::debug!(%error, "the lease on this instance's members could not be given back");
        }
    }
}
