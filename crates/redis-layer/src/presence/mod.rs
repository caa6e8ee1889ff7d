//! Presence on Redis: members by place ([`members`]), and by instance a lease, what finds its members, and what it wrote
//! down of its connections ([`leases`]).
//!
//! What is done to one place is one script. Whoever removes a dead instance's members may die half way, and the next
//! goes on: a member is answered to whoever removed it.

mod leases;
mod members;

use crate::{
    connection::{Links, linked},
    error::RedisError,
};
use fred::{clients::Client, interfaces::EventInterface, types::config::Server};
use futures::future::{FutureExt as _, try_join_all};
use leases::{call, connections_key};
use members::Spot;
use parking_lot::Mutex;
use presence::{Answer, Entered, Gone, Kind, Member, Place, Presence, PresenceError, Record, Renewal};
use shared_types::Scope;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::broadcast::{self, error::TryRecvError};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Presence on Redis.
pub struct RedisPresence {
    links: Links,
    reconnects: Reconnects,
}

/// Tells of each time that the connection was made anew: the server behind it may be another one, or one that has
/// lost its last moments. From the first command on.
type Reconnects = Arc<Mutex<Option<broadcast::Receiver<Server>>>>;

/// Takes all there is; answers whether there was any.
fn take_any(reconnects: &mut broadcast::Receiver<Server>) -> bool {
    let mut any = false;
    while !matches!(reconnects.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {
        any = true;
    }
    any
}

impl RedisPresence {
    /// Presence over the process's connections.
    pub(crate) fn new(links: Links) -> Self {
        Self { links, reconnects: Reconnects::default() }
    }

    fn answer<T, F>(&self, work: impl FnOnce(Client) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RedisError>> + Send,
    {
        let (links, reconnects) = (self.links.clone(), self.reconnects.clone());
        async move {
            let done = async move {
                let client = linked(&links, TIMEOUT).await?.reads.clone();
                reconnects.lock().get_or_insert_with(|| client.reconnect_rx());
                work(client).await
            };
            match tokio::time::timeout(TIMEOUT, done).await {
                Ok(done) => done.map_err(|error| PresenceError(error.to_string())),
                Err(_) => Err(PresenceError("no answer in time".to_owned())),
            }
        }
        .boxed()
    }
}

impl Presence for RedisPresence {
    fn enter(&self, scope: &Scope, place: &Place, instance: &str, member: Member) -> Answer<Entered> {
        let (spot, instance) = (Spot::new(scope, place), instance.to_owned());
        self.answer(async move |client| {
            // First what finds the member again should the instance die in the middle.
            leases::note(&client, &instance, vec![spot.line(&member.socket_id)]).await?;
            members::enter(&client, &spot, &instance, member).await
        })
    }

    fn enter_again(&self, instance: &str, members: Vec<(Scope, Place, Member)>) -> Answer<Vec<bool>> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            if members.is_empty() {
                return Ok(Vec::new());
            }
            let all = members.into_iter().map(|(scope, place, member)| (Spot { scope, place }, member));
            let all: Vec<(Spot, Member)> = all.collect();
            let lines = all.iter().map(|(spot, member)| spot.line(&member.socket_id)).collect();
            leases::note(&client, &instance, lines).await?;
            let entering = all.into_iter().map(|(spot, member)| {
                let (client, instance) = (&client, &instance);
                async move { Ok(members::enter(client, &spot, instance, member).await?.is_new) }
            });
            try_join_all(entering).await
        })
    }

    fn leave(&self, scope: &Scope, place: &Place, socket_id: &str) -> Answer<Option<Member>> {
        let (spot, socket) = (Spot::new(scope, place), socket_id.to_owned());
        self.answer(async move |client| {
            let line = spot.line(&socket);
            let Some(held) = members::remove(&client, &spot, None, &[socket]).await?.pop() else {
                return Ok(None);
            };
            leases::unnote(&client, &held.instance, vec![line]).await?;
            Ok(Some(held.member))
        })
    }

    fn members(
        &self,
        scope: &Scope,
        place: &Place,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<Member>> {
        let (spot, after) = (Spot::new(scope, place), after.map(str::to_owned));
        self.answer(async move |client| members::page(&client, &spot, after.as_deref(), limit).await)
    }

    fn places(
        &self,
        scope: &Scope,
        kind: Kind,
        after: Option<&str>,
        limit: usize,
    ) -> Answer<Vec<(String, u64)>> {
        let (scope, after) = (scope.clone(), after.map(str::to_owned));
        self.answer(async move |client| members::places(&client, &scope, kind, after.as_deref(), limit).await)
    }

    fn renew(&self, instance: &str) -> Answer<Renewal> {
        let (instance, reconnects) = (instance.to_owned(), self.reconnects.clone());
        self.answer(async move |client| {
            let held = leases::renew(&client, &instance).await?;
            // Only now: without an answer, the next renewal is the one to tell.
            let reconnected = reconnects.lock().as_mut().is_some_and(take_any);
            Ok(match held {
                false => Renewal::Lapsed,
                true if reconnected => Renewal::Emptied,
                true => Renewal::Held,
            })
        })
    }

    fn retire(&self, instance: &str) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| leases::end(&client, &instance).await)
    }

    fn dead(&self) -> Answer<Vec<String>> {
        self.answer(async move |client| leases::over(&client).await)
    }

    fn left_by(&self, instance: &str) -> Answer<Vec<Gone>> {
        let instance = instance.to_owned();
        self.answer(async move |client| leases::left_by(&client, &instance).await)
    }

    fn reap(&self, instance: &str) -> Answer<Vec<Gone>> {
        let instance = instance.to_owned();
        self.answer(async move |client| leases::bury(&client, &instance).await)
    }

    fn instances(&self) -> Answer<Vec<String>> {
        self.answer(async move |client| leases::alive(&client).await)
    }

    fn hold(&self, instance: &str, records: Vec<Record>) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            if records.is_empty() {
                return Ok(());
            }
            leases::make_known(&client, &instance).await?;
            let fields = records.into_iter().flat_map(|record| [record.key, record.text]);
            let all = std::iter::once(connections_key(&instance)).chain(fields).collect();
            let _: i64 = call(&client, "HSET", all).await?;
            Ok(())
        })
    }

    fn release(&self, instance: &str, keys: Vec<String>) -> Answer<()> {
        let instance = instance.to_owned();
        self.answer(async move |client| {
            if keys.is_empty() {
                return Ok(());
            }
            let all = std::iter::once(connections_key(&instance)).chain(keys).collect();
            let _: i64 = call(&client, "HDEL", all).await?;
            Ok(())
        })
    }

    fn records(&self, instance: &str, limit: usize) -> Answer<Vec<Record>> {
        let instance = instance.to_owned();
        self.answer(async move |client| leases::records(&client, &instance, limit).await)
    }
}
