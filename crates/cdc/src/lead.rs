//! One target's leader: waits for the lease, reads while it holds it, hands over.

use crate::{
    caretaker::Caretaker,
    reader::{Ended, Reader},
    service::CdcService,
    status::{Status, StatusTask},
    target::{Identity, Names, TargetUrl, publication::Manage},
    trouble::Trouble,
};
use database::{
    Pool,
    tables::{
        cdc::ReaderState,
        leases::{self, LeaseSession},
    },
};
use shared_types::Scope;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a leader leads without renewing.
const LEASE: Duration = Duration::from_secs(3);
/// How often a leader renews, and others look whether there is one.
const RENEW: Duration = Duration::from_secs(1);
/// How long handing back may take when stopping.
const HAND_BACK: Duration = Duration::from_secs(2);

/// A database with those who want it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where it is.
    pub url: TargetUrl,
    /// Who wants it read.
    pub scopes: Vec<Scope>,
    /// Whether it may be changed.
    pub manage: Manage,
}

/// Waits to lead one target, leads it, and hands it over.
pub(crate) struct Lead {
    pub service: CdcService,
    pub identity: Identity,
    pub names: Names,
    pub group: Group,
    pub stop: CancellationToken,
    /// The session that shows that this process lives.
    pub session: watch::Receiver<Option<LeaseSession>>,
    /// Whether the slot is given up when it ends.
    pub farewell: Arc<AtomicBool>,
}

impl Lead {
    /// Runs until told to stop, or until the URL leads elsewhere.
    pub async fn run(self) -> Ended {
        let lease = format!("cdc/{}/{}", self.identity.system, self.names.slot);
        while !self.stop.is_cancelled() {
            let holder = &self.service.settings.holder;
            match leases::acquire(&self.service.pool, &lease, holder, self.session(), LEASE).await {
                Ok(Some(term)) => {
                    let ended = self.lead(&lease, term).await;
                    let released = leases::release(&self.service.pool, &lease, term);
                    if !matches!(tokio::time::timeout(HAND_BACK, released).await, Ok(Ok(()))) {
                        tracing::warn!(lease, "could not hand the lease back; it runs out by itself");
                    }
                    if ended == Ended::OtherCluster {
                        return ended;
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, lease, "could not ask for the lease"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(RENEW) => {}
            }
        }
        Ended::Stopped
    }

    fn session(&self) -> Option<LeaseSession> {
        *self.session.borrow()
    }

    /// Reads in `term` until told to stop, or until the lease is lost.
    async fn lead(&self, lease: &str, term: u64) -> Ended {
        tracing::info!(lease, cdc.term = term, "leading a target");
        let status = Status::new();
        let session = self.stop.child_token();
        let _cancelled_with_this = session.clone().drop_guard();
        let mut tasks = JoinSet::new();
        let alive = self.session.clone();
        tasks.spawn(renew(self.service.pool.clone(), lease.to_owned(), term, alive, session.clone()));
        let writer = self.status_task(status.clone());
        tasks.spawn(writer.run(session.clone()));
        let mut reading = JoinSet::new();
        reading.spawn(self.reader(status.clone(), term).run(session.clone()));
        let ended = match reading.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => {
                tracing::error!(%error, lease, "a reader failed");
                Ended::Stopped
            }
            None => Ended::Stopped,
        };
        session.cancel();
        while tasks.join_next().await.is_some() {}
        if self.stop.is_cancelled() {
            self.say_goodbye(status).await;
        }
        ended
    }

    fn caretaker(&self, status: Arc<Status>) -> Caretaker {
        Caretaker::new(
            self.service.pool.clone(),
            self.group.url.clone(),
            self.identity.clone(),
            self.names.clone(),
            self.group.scopes.clone(),
            self.group.manage,
            status,
        )
    }

    fn reader(&self, status: Arc<Status>, term: u64) -> Reader {
        Reader {
            router: self.service.router.clone(),
            metrics: self.service.metrics.clone(),
            caretaker: self.caretaker(status.clone()),
            status,
            names: self.names.clone(),
            term,
        }
    }

    fn status_task(&self, status: Arc<Status>) -> StatusTask {
        StatusTask {
            pool: self.service.pool.clone(),
            status,
            scopes: self.group.scopes.clone(),
            names: self.names.clone(),
            holder: self.service.settings.holder.clone(),
            metrics: self.service.metrics.clone(),
        }
    }

    /// Shows that nobody reads here any more, and gives the slot up where no scope names the target.
    async fn say_goodbye(&self, status: Arc<Status>) {
        let trouble = Trouble::new(
            "STOPPED",
            "no process reads it; its slot keeps the target's log meanwhile",
            "start it, or start a process that hosts change data capture",
        );
        status.set(ReaderState::Stopped, Some(trouble));
        if self.farewell.load(Ordering::Relaxed) {
            let mut caretaker = self.caretaker(status.clone());
            match tokio::time::timeout(HAND_BACK * 3, caretaker.give_up()).await {
                Ok(Ok(())) => tracing::info!(cdc.slot = %self.names.slot, "gave the target up"),
                Ok(Err(trouble)) => {
                    tracing::warn!(%trouble, cdc.slot = %self.names.slot, "the slot stays behind")
                }
                Err(_) => tracing::warn!(cdc.slot = %self.names.slot, "the slot stays behind"),
            }
        }
        let writer = self.status_task(status);
        if tokio::time::timeout(HAND_BACK, writer.write(0.0)).await.is_err() {
            tracing::debug!("could not write the reader's last status");
        }
        self.service.metrics.clear_cdc_lag(&self.names.slot);
    }
}

/// Renews the lease until `session` ends; ends it when the lease is lost or cannot be renewed in time.
async fn renew(
    pool: Pool,
    lease: String,
    term: u64,
    alive: watch::Receiver<Option<LeaseSession>>,
    session: CancellationToken,
) {
    let mut renewed = Instant::now();
    while !session.is_cancelled() {
        tokio::select! {
            () = session.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
        let asked = Instant::now();
        let named = *alive.borrow();
        let answer = tokio::time::timeout(LEASE, leases::renew(&pool, &lease, term, named, LEASE)).await;
        match answer {
            Ok(Ok(true)) => renewed = asked,
            Ok(Ok(false)) => {
                tracing::warn!(lease, "another process leads now");
                session.cancel();
            }
            Ok(Err(_)) | Err(_) if renewed.elapsed() >= LEASE => {
                tracing::warn!(lease, "the lease could not be renewed in time");
                session.cancel();
            }
            Ok(Err(error)) => tracing::debug!(%error, lease, "could not renew the lease"),
            Err(_) => {}
        }
    }
}
