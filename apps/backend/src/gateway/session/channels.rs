//! What a connection does in channels: join, say, and be present.

use super::{Session, may_receive};
use crate::gateway::{
    channels::{Channels, member_json, place_members},
    request::channels::{PresenceTarget, PresenceVerb, SayRequest, check_speakable},
};
use auth::Identity;
use event_log::TopicKey;
use event_router::{Content, Control, Listener, ReplyTo, Saying, Sender, now_ms};
use presence::{Kind, Member, Place};
use serde_json::{Value, json, value::RawValue};
use shared_types::{EventId, Problem, TopicName, rights::Verb};

impl Session {
    fn sender(&self) -> Sender {
        let connection = self.connection();
        Sender { client_id: connection.client_id(), socket_id: Some(connection.socket_id.to_string()) }
    }

    fn member(&self, data: Value) -> Member {
        let connection = self.connection();
        Member {
            client_id: connection.client_id(),
            socket_id: connection.socket_id.to_string(),
            data,
            joined_at: now_ms(),
        }
    }

    /// Makes room for another place.
    fn admit_place(&self, place: &Place) -> Result<(), Problem> {
        let most = self.limits().channels;
        if !self.places.contains(place) && self.places.len() >= most {
            return Err(Problem::limit(format!("at most {most} channels a connection")));
        }
        Ok(())
    }

    /// Hears under the place's key what its places there entitle it to, or nothing more.
    async fn listen(&self, identity: &Identity, place: &Place) -> Result<(), Problem> {
        let key = Channels::key_of(&identity.scope, place);
        let at = |kind| self.places.iter().any(|held| held.kind == kind && held.name == place.name);
        let hears_sayings = place.kind != Kind::Document && at(Kind::Channel);
        let is_there =
            hears_sayings || at(if place.kind == Kind::Document { Kind::Document } else { Kind::Present });
        let outbox = self.connection().outbox.clone();
        if !is_there {
            self.gateway.hub.part(key, outbox.connection()).await;
            return Ok(());
        }
        let socket_id = self.connection().socket_id.clone();
        Ok(self.gateway.hub.join(key, Listener { socket_id, outbox, hears_sayings }).await?)
    }

    /// Enters a place: first what is said there is heard, then the others are told, so that nothing lies between.
    async fn enter(
        &mut self,
        identity: &Identity,
        place: Place,
        data: Value,
    ) -> Result<Vec<Member>, Problem> {
        self.admit_place(&place)?;
        let is_new = self.places.insert(place.clone());
        let entered = async {
            self.listen(identity, &place).await?;
            self.gateway.channels.enter(&identity.scope, &place, self.member(data)).await
        };
        let entered = entered.await;
        if entered.is_err() && is_new {
            // Part of it may have been done; what cannot be undone goes with the connection or the lease.
            if let Err(problem) = self.leave(identity, &place).await {
                tracing::debug!(%problem, "a place that could not be entered could not be left");
            }
        }
        entered
    }

    async fn leave(&mut self, identity: &Identity, place: &Place) -> Result<(), Problem> {
        if !self.places.remove(place) {
            return Ok(());
        }
        let left = self.gateway.channels.leave(&identity.scope, place, &self.connection().socket_id).await;
        self.listen(identity, place).await?;
        left
    }

    pub(super) async fn join_channel(&mut self, channel: TopicName, to: ReplyTo) -> Result<(), Problem> {
        let identity = self.connection().identity();
        may_receive(&identity, Verb::Subscribe, &channel)?;
        let members = self.enter(&identity, Place::channel(&channel), Value::Null).await?;
        let mut channels = self.connection().channels.lock();
        if !channels.contains(&channel) {
            channels.push(channel.clone());
        }
        drop(channels);
        self.note("channel.join", &identity, |members| members["channel"] = channel.as_str().into());
        self.reply(to, Control::Done(format!("\"channel\":\"{channel}\",{}", members_member(&members))));
        Ok(())
    }

    pub(super) async fn leave_channel(&mut self, channel: TopicName, to: ReplyTo) -> Result<(), Problem> {
        let identity = self.connection().identity();
        self.leave(&identity, &Place::channel(&channel)).await?;
        self.connection().channels.lock().retain(|joined| *joined != channel);
        self.note("channel.leave", &identity, |members| members["channel"] = channel.as_str().into());
        self.reply(to, Control::Done(String::new()));
        Ok(())
    }

    pub(super) async fn say(
        &mut self,
        channel: TopicName,
        request: SayRequest,
        to: ReplyTo,
    ) -> Result<(), Problem> {
        let identity = self.connection().identity();
        may_say(&identity, &channel)?;
        let saying = saying(request, self.sender());
        let id = saying.id.clone();
        self.note("broadcast", &identity, |members| broadcast_members(members, &channel, &saying));
        let key = TopicKey::new(&identity.scope, &channel);
        let mut announced = self.gateway.router.log().announce(vec![Content::Said(saying).message(key)]);
        // Polled once here, the message has its place in the queue before the client's next one is read.
        let first = futures::poll!(&mut announced);
        let (outbox, metrics) = (self.connection().outbox.clone(), self.gateway.metrics.clone());
        self.gateway.tasks.spawn(async move {
            let done = match first {
                std::task::Poll::Ready(done) => done,
                std::task::Poll::Pending => announced.await,
            };
            let control = match done {
                Ok(()) => Control::Done(format!("\"id\":\"{id}\"")),
                Err(error) => {
                    let problem = Problem::from(error);
                    metrics.rejected(problem.code);
                    Control::Failed(problem)
                }
            };
            outbox.control(to, control);
        });
        Ok(())
    }

    pub(super) async fn direct(
        &mut self,
        target: String,
        request: SayRequest,
        to: ReplyTo,
    ) -> Result<(), Problem> {
        let identity = self.connection().identity();
        if !identity.rights.allows(Verb::Broadcast, &target) {
            return Err(Problem::forbidden("no right to send direct messages"));
        }
        let saying = saying(request, self.sender());
        self.note("direct", &identity, |members| {
            members["targetSocketId"] = target.as_str().into();
            members["event"] = saying.event.as_str().into();
            members["bytes"] = saying.data.get().len().into();
        });
        let delivered = self.gateway.channels.direct(&identity.scope, &target, saying).await?;
        self.reply(to, Control::Done(format!("\"delivered\":{delivered}")));
        Ok(())
    }

    pub(super) async fn presence(
        &mut self,
        verb: PresenceVerb,
        target: PresenceTarget,
        data: Option<Box<RawValue>>,
        to: ReplyTo,
    ) -> Result<(), Problem> {
        let identity = self.connection().identity();
        let (place, name) = match &target {
            PresenceTarget::Channel(channel) => (Place::present(channel), channel.to_string()),
            PresenceTarget::Document { service, id } => {
                (Place::document(service.as_str(), id.as_str()), format!("sync.{service}.{id}"))
            }
        };
        let is_document = place.kind == Kind::Document;
        let allowed = identity.rights.allows(Verb::Presence, &name)
            && (!is_document || identity.rights.allows(Verb::DocumentsRead, &name));
        if !allowed {
            return Err(Problem::forbidden(format!("no right to presence in {name}")));
        }
        let data = data.map_or(Ok(Value::Null), |data| serde_json::from_str(data.get()));
        let data = data.map_err(|_| Problem::field("data", "cannot be read"))?;
        let members = match verb {
            PresenceVerb::Enter => self.enter(&identity, place, data).await?,
            PresenceVerb::Update if self.places.contains(&place) => {
                self.enter(&identity, place, data).await?
            }
            PresenceVerb::Update => {
                return Err(Problem::new(shared_types::ErrorKind::Conflict, "NOT_PRESENT", "enter first"));
            }
            PresenceVerb::Leave => {
                self.leave(&identity, &place).await?;
                self.present(&identity, &place).await?
            }
            PresenceVerb::Get => self.present(&identity, &place).await?,
        };
        self.reply(to, Control::Done(members_member(&members)));
        Ok(())
    }

    async fn present(&self, identity: &Identity, place: &Place) -> Result<Vec<Member>, Problem> {
        self.gateway.channels.members(&identity.scope, place, None, presence::MEMBERS).await
    }

    /// Leaves the places that a new token no longer covers, each with an error that names it.
    pub(super) async fn leave_uncovered(&mut self, identity: &Identity) {
        let uncovered: Vec<Place> =
            self.places.iter().filter(|place| !covers(identity, place)).cloned().collect();
        for place in uncovered {
            if let Err(problem) = self.leave(identity, &place).await {
                tracing::warn!(%problem, "a place could not be left");
            }
            self.connection().channels.lock().retain(|joined| joined.as_str() != place.name);
            let message = format!("{} ended: the new token does not cover it", place.name);
            let problem = Problem::forbidden(message);
            self.gateway.metrics.rejected(problem.code);
            self.reply(ReplyTo::Nothing, Control::Left { place: place_members(&place), problem });
        }
    }

    /// Leaves all places, because the connection ends.
    pub(super) async fn leave_all(&mut self) {
        let identity = self.connection().identity();
        for place in std::mem::take(&mut self.places) {
            let key = Channels::key_of(&identity.scope, &place);
            self.gateway.hub.part(key, self.connection().outbox.connection()).await;
            let left =
                self.gateway.channels.leave(&identity.scope, &place, &self.connection().socket_id).await;
            if let Err(problem) = left {
                // It goes with this instance's lease, or when the connection's client comes again.
                tracing::warn!(%problem, "a place could not be left");
            }
        }
    }
}

fn covers(identity: &Identity, place: &Place) -> bool {
    match place.kind {
        Kind::Channel => may_receive(identity, Verb::Subscribe, &TopicName::from_stored(&place.name)).is_ok(),
        Kind::Present => identity.rights.allows(Verb::Presence, &place.name),
        Kind::Document => {
            let name = format!("sync.{}", place.name.replacen('/', ".", 1));
            identity.rights.allows(Verb::Presence, &name)
                && identity.rights.allows(Verb::DocumentsRead, &name)
        }
    }
}

/// Whether `identity` may say something in `channel`.
///
/// # Errors
/// `FORBIDDEN`.
fn may_say(identity: &Identity, channel: &TopicName) -> Result<(), Problem> {
    check_speakable(channel)?;
    if identity.rights.allows(Verb::Publish, channel.as_str()) {
        return Ok(());
    }
    Err(Problem::forbidden(format!("no right to publish {channel}")))
}

/// What those see of a broadcast who watch the traffic.
pub fn broadcast_members(members: &mut Value, channel: &TopicName, saying: &Saying) {
    members["channel"] = channel.as_str().into();
    members["event"] = saying.event.as_str().into();
    members["bytes"] = saying.data.get().len().into();
}

/// What is said, with its id and time.
pub fn saying(request: SayRequest, from: Sender) -> Saying {
    Saying {
        id: EventId::generate().to_string(),
        event: request.event,
        data: request.data,
        from,
        timestamp: now_ms(),
        echo: request.echo,
    }
}

fn members_member(members: &[Member]) -> String {
    let members: Vec<Value> = members.iter().map(member_json).collect();
    format!("\"members\":{}", json!(members))
}
