//! Leases on PostgreSQL: a row each, held by one session a process that lives as long as the process does.
//!
//! A holder that dies ends its session, and its leases can be taken at once; one whose machine is gone loses them when
//! they run out. A lease that is given back is told by NOTIFY. Where leases are kept elsewhere, their terms are still
//! counted in these rows ([`PostgresTerms`]).

use crate::{
    Pool,
    tables::leases::{self, LeaseSession},
};
use futures::future::BoxFuture;
use leadership::{Answer, LEASE, Leader, LeadershipError, RENEW, Terms};
use sqlx::postgres::{PgListener, PgPoolOptions};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How often the session is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Names of leases that were given back and not yet looked at; who misses one looks a second later.
const FREED: usize = 64;

/// Leases on PostgreSQL, one a process.
pub struct PostgresLeader {
    pool: Pool,
    session: watch::Receiver<Option<LeaseSession>>,
    freed: broadcast::Sender<Arc<str>>,
}

impl PostgresLeader {
    /// Starts to keep the session in `tasks`, until `stop`: stop it after what it leads.
    ///
    /// The database need not be reachable yet.
    pub fn start(pool: Pool, tasks: &mut JoinSet<()>, stop: CancellationToken) -> Arc<Self> {
        let told = watch::Sender::new(None);
        let session = told.subscribe();
        let freed = broadcast::Sender::new(FREED);
        tasks.spawn(keep(pool.clone(), told, freed.clone(), stop));
        Arc::new(Self { pool, session, freed })
    }
}

/// Limits `asking` to the length of a lease: an answer after that says nothing any more.
async fn within<T>(
    asking: impl Future<Output = Result<T, crate::DatabaseError>>,
) -> Result<T, LeadershipError> {
    match tokio::time::timeout(LEASE, asking).await {
        Ok(answer) => answer.map_err(|error| LeadershipError(error.to_string())),
        Err(_) => Err(LeadershipError("no answer in time".to_owned())),
    }
}

impl Leader for PostgresLeader {
    fn acquire(&self, name: &str, holder: &str) -> Answer<Option<u64>> {
        let (pool, session) = (self.pool.clone(), *self.session.borrow());
        let (name, holder) = (name.to_owned(), holder.to_owned());
        Box::pin(async move { within(leases::acquire(&pool, &name, &holder, session, LEASE)).await })
    }

    fn renew(&self, name: &str, term: u64) -> Answer<bool> {
        let (pool, session, name) = (self.pool.clone(), *self.session.borrow(), name.to_owned());
        Box::pin(async move { within(leases::renew(&pool, &name, term, session, LEASE)).await })
    }

    fn release(&self, name: &str, term: u64) -> Answer<()> {
        let (pool, name) = (self.pool.clone(), name.to_owned());
        Box::pin(async move { within(leases::release(&pool, &name, term)).await })
    }

    fn freed(&self, name: &str) -> BoxFuture<'static, ()> {
        let (mut freed, name) = (self.freed.subscribe(), name.to_owned());
        Box::pin(async move {
            let told = async {
                // Having missed one is reason enough to look.
                while freed.recv().await.is_ok_and(|given_back| *given_back != *name) {}
            };
            let _ = tokio::time::timeout(RENEW, told).await;
        })
    }
}

/// The terms of leases that are kept elsewhere, counted in the rows of those that are kept here: so they grow over every
/// change from the one to the other.
pub struct PostgresTerms {
    pool: Pool,
}

impl PostgresTerms {
    /// Terms in the database of `pool`, which need not be reachable yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

impl Terms for PostgresTerms {
    fn raise(&self, name: &str, holder: &str) -> Answer<Option<u64>> {
        let (pool, name, holder) = (self.pool.clone(), name.to_owned(), holder.to_owned());
        Box::pin(async move { within(leases::raise(&pool, &name, &holder)).await })
    }

    fn holder(&self, name: &str, term: u64) -> Answer<Option<String>> {
        let (pool, name) = (self.pool.clone(), name.to_owned());
        Box::pin(async move { within(leases::holder(&pool, &name, term)).await })
    }

    fn end(&self, name: &str, term: u64) -> Answer<()> {
        let (pool, name) = (self.pool.clone(), name.to_owned());
        Box::pin(async move { within(leases::release(&pool, &name, term)).await })
    }
}

/// Keeps a session open until `stop`, tells `told` which (`None` while there is none), and `freed` what is given back.
async fn keep(
    pool: Pool,
    told: watch::Sender<Option<LeaseSession>>,
    freed: broadcast::Sender<Arc<str>>,
    stop: CancellationToken,
) {
    let mut held: Option<PgListener> = None;
    while !stop.is_cancelled() {
        let alive = match &mut held {
            Some(listener) => follow(listener, &freed, &stop).await,
            None => false,
        };
        if !alive {
            drop(held.take());
            held = tokio::time::timeout(PATIENCE, open(&pool)).await.ok().flatten().map(
                |(listener, session)| {
                    told.send_replace(Some(session));
                    listener
                },
            );
            if held.is_none() {
                told.send_replace(None);
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
    }
}

/// Passes on what is given back for a while; whether the session still lives then.
async fn follow(
    listener: &mut PgListener,
    freed: &broadcast::Sender<Arc<str>>,
    stop: &CancellationToken,
) -> bool {
    let ends = tokio::time::Instant::now() + LOOK;
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return true,
            () = tokio::time::sleep_until(ends) => break,
            told = listener.try_recv() => told,
        };
        match told {
            // Nobody may be waiting for it.
            Ok(Some(notice)) => drop(freed.send(notice.payload().into())),
            // The connection was lost; another would be another session.
            Ok(None) | Err(_) => return false,
        }
    }
    let answered = tokio::time::timeout(PATIENCE, leases::session(&mut *listener)).await;
    matches!(answered, Ok(Ok(_)))
}

/// A session of its own: the pool's come and go.
async fn open(pool: &Pool) -> Option<(PgListener, LeaseSession)> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&own).await.ok()?;
    listener.eager_reconnect(false);
    listener.listen(leases::FREED).await.ok()?;
    let session = leases::session(&mut listener).await.ok()?;
    Some((listener, session))
}
