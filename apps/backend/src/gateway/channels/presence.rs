//! Who is where: entering, leaving, and telling the others.

use super::{Channels, Held, HeldKey, member_json, place_members};
use crate::gateway::{lifecycle, registry::happened};
use ::presence::{Kind, MEMBERS, Member, Place};
use event_log::Message;
use event_router::{Content, PresenceAction, PresenceChange};
use serde_json::json;
use shared_types::{Problem, Scope};

/// Changes that are announced at a time.
const TOLD: usize = 500;

/// Who changed, and where.
pub(super) type Change<'c> = (&'c Scope, &'c Place, &'c Member);

impl Channels {
    /// Puts a member into a place, says so to those who are there, and answers who is.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn enter(&self, scope: &Scope, place: &Place, member: Member) -> Result<Vec<Member>, Problem> {
        if place.kind == Kind::Channel {
            self.put_in(scope, place, member).await?;
            return Ok(self.store.members(scope, place, None, MEMBERS).await?);
        }
        self.registry.lifecycle.demand_room()?;
        let entered = self.put_in(scope, place, member).await?;
        let mut action = if entered.is_new { PresenceAction::Enter } else { PresenceAction::Update };
        for (instance, old) in entered.elsewhere {
            // The client may have lost its instance and come back here; or it is there a second time.
            if !self.is_alive(scope, &instance, &old.socket_id).await {
                self.store.leave(scope, place, &old.socket_id).await?;
                action = PresenceAction::Update;
            }
        }
        self.tell_all(&[(scope, place, &entered.member)], action).await;
        Ok(self.store.members(scope, place, None, MEMBERS).await?)
    }

    /// Holds a member and puts it into the store. Held first: whoever enters all again meanwhile sees what is newer.
    async fn put_in(
        &self,
        scope: &Scope,
        place: &Place,
        member: Member,
    ) -> Result<::presence::Entered, Problem> {
        let key: HeldKey = (scope.clone(), place.clone(), member.socket_id.clone());
        let (before, member) = self.hold(&key, member);
        self.lease.forget(&key);
        let entered = self.store.enter(scope, place, &self.instance, member).await;
        let now = match &entered {
            Ok(entered) => Some(Held { member: entered.member.clone(), is_entering: false }),
            Err(_) => before,
        };
        let mut held = self.held.lock();
        match now {
            Some(now) => drop(held.insert(key, now)),
            None => drop(held.remove(&key)),
        }
        drop(held);
        Ok(entered?)
    }

    /// Holds a member that is about to be entered; answers what was held before, and the member as it is to be entered:
    /// since when it is there does not change.
    fn hold(&self, key: &HeldKey, member: Member) -> (Option<Held>, Member) {
        let mut held = self.held.lock();
        let before = held.get(key).cloned();
        let joined_at = before.as_ref().map_or(member.joined_at, |before| before.member.joined_at);
        let member = Member { joined_at, ..member };
        held.insert(key.clone(), Held { member: member.clone(), is_entering: true });
        (before, member)
    }

    /// Takes a connection out of a place and says so. Where the store does not answer, it is taken out as soon as it
    /// does.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the store does not answer.
    pub async fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Result<(), Problem> {
        let key: HeldKey = (scope.clone(), place.clone(), socket_id.to_owned());
        let held = self.held.lock().remove(&key);
        self.take_out(&key, held.map(|held| held.member)).await
    }

    /// Takes somebody out of the store, and says so where it was there, or is `known` to others although the store has
    /// lost it.
    pub(super) async fn take_out(&self, key: &HeldKey, known: Option<Member>) -> Result<(), Problem> {
        let (scope, place, socket_id) = key;
        match self.store.leave(scope, place, socket_id).await {
            Ok(left) => {
                if let Some(member) = left.or(known)
                    && place.kind != Kind::Channel
                {
                    self.tell_all(&[(scope, place, &member)], PresenceAction::Leave).await;
                }
                Ok(())
            }
            Err(error) => {
                self.lease.keep(key.clone(), known);
                Err(error.into())
            }
        }
    }

    /// Tells changes to everybody: side-effect readers, who watches the traffic, and those who are there.
    pub(super) async fn tell_all(&self, changes: &[Change<'_>], action: PresenceAction) {
        for (scope, place, member) in changes {
            self.registry.lifecycle.happened(lifecycle::presence(scope, place, action, member));
        }
        self.say_all(changes, action).await;
    }

    /// Announces changes. One that cannot be is not made undone: members are asked for by `presence:get`.
    pub(super) async fn say_all(&self, changes: &[Change<'_>], action: PresenceAction) {
        for some in changes.chunks(TOLD) {
            let messages = some.iter().map(|change| self.message(*change, action)).collect();
            if let Err(error) = self.log.announce(messages).await {
                tracing::warn!(%error, "changes of presence could not be announced");
            }
        }
    }

    /// What is announced of a change; those who watch the traffic are told of it.
    fn message(&self, (scope, place, member): Change<'_>, action: PresenceAction) -> Message {
        self.registry.traffic.note(scope, || {
            let mut members = place_members(place);
            members["action"] = json!(action);
            members["socketId"] = member.socket_id.as_str().into();
            members["clientId"] = member.client_id.as_str().into();
            happened("presence.updated", members)
        });
        let document = place.as_document().map(|(service, id)| json!({ "service": service, "id": id }));
        let change = PresenceChange { action, member: member_json(member), document };
        Content::Presence(change).message(Self::key_of(scope, place))
    }
}
