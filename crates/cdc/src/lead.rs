//! One target's leader: waits for the lease, reads while it holds it, hands over.

use crate::{
    caretaker::{Caretaker, Charge},
    reader::{Ended, Reader},
    recorder::{self, RecorderSource},
    service::{CdcParts, CdcSettings, Origin},
    status::{Status, StatusTask},
    target::{Identity, Names, TargetUrl, publication::Manage},
    trouble::Trouble,
};
use database::tables::cdc;
use leadership::{LEASE, Leader, RENEW};
use shared_types::Scope;
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// The shortest and longest time between two reports: others take a status that is older than 5 seconds for dead.
const REPORT_MIN: Duration = Duration::from_millis(100);
const REPORT_MAX: Duration = Duration::from_secs(2);
/// How long handing back may take when stopping.
const HAND_BACK: Duration = Duration::from_secs(2);
/// How long the last status may take: whoever reads next waits for it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A database with those who want it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where it is.
    pub url: TargetUrl,
    /// Who wants it read.
    pub scopes: Vec<Scope>,
    /// Whether it may be changed.
    pub manage: Manage,
    /// Who knows of it.
    pub origin: Origin,
}

/// The name of the lease that leading a target takes.
pub(crate) fn lease_name(system: &str, slot: &str) -> String {
    format!("cdc/{system}/{slot}")
}

/// Waits to lead one target, leads it, and hands it over.
pub(crate) struct Lead {
    pub parts: CdcParts,
    pub settings: CdcSettings,
    pub identity: Identity,
    pub names: Names,
    pub group: Group,
    pub stop: CancellationToken,
}

impl Lead {
    /// Runs until told to stop, or until the URL leads elsewhere.
    pub async fn run(self) -> Ended {
        // What is written down beside the events may take its time, and who comes next does not wait for it.
        let mut recording = JoinSet::new();
        let ended = self.take_turns(&mut recording).await;
        while recording.join_next().await.is_some() {}
        ended
    }

    /// Leads whenever nobody else does.
    async fn take_turns(&self, recording: &mut JoinSet<()>) -> Ended {
        let lease = lease_name(&self.identity.system, &self.names.slot);
        let leader = self.parts.leader.clone();
        while !self.stop.is_cancelled() {
            let freed = leader.freed(&lease);
            let asked = Instant::now();
            match leader.acquire(&lease, &self.settings.holder).await {
                Ok(Some(term)) => {
                    while recording.try_join_next().is_some() {}
                    let ended = self.lead(&lease, term, asked, recording).await;
                    let released = tokio::time::timeout(HAND_BACK, leader.release(&lease, term)).await;
                    if !matches!(released, Ok(Ok(()))) {
                        tracing::warn!(lease, "could not hand the lease back; it runs out by itself");
                    }
                    if ended == Ended::OtherCluster {
                        return ended;
                    }
                    // Whoever else waits comes first.
                    self.pause(RENEW).await;
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, lease, "could not ask for the lease"),
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = freed => {}
            }
        }
        Ended::Stopped
    }

    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(length) => {}
        }
    }

    /// Reads in `term` until told to stop, or until another leads.
    async fn lead(&self, lease: &str, term: u64, asked: Instant, recording: &mut JoinSet<()>) -> Ended {
        tracing::info!(lease, cdc.term = term, "leading a target");
        let status = Status::new();
        let session = self.stop.child_token();
        let _cancelled_with_this = session.clone().drop_guard();
        let mut tasks = JoinSet::new();
        tasks.spawn(renew(self.parts.leader.clone(), lease.to_owned(), term, asked, session.clone()));
        let writer = self.status_task(status.clone());
        tasks.spawn(writer.run(session.clone()));
        let recorder = self.recorder(recording);
        let mut reading = JoinSet::new();
        reading.spawn(self.reader(status.clone(), term, recorder).run(session.clone()));
        let ended = match reading.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => {
                tracing::error!(%error, lease, "a reader failed");
                Ended::Stopped
            }
            None => Ended::Stopped,
        };
        session.cancel();
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::debug!(lease, "a status could not be written in time");
        }
        tasks.shutdown().await;
        if self.stop.is_cancelled() {
            self.say_goodbye(status).await;
        }
        ended
    }

    fn caretaker(&self, status: Arc<Status>) -> Caretaker {
        let charge =
            Charge { identity: self.identity.clone(), names: self.names.clone(), group: self.group.clone() };
        Caretaker::new(self.parts.pool.clone(), self.parts.sealer.clone(), charge, status)
    }

    /// The recorder's task ends with the last recorder.
    fn recorder(&self, tasks: &mut JoinSet<()>) -> RecorderSource {
        if self.settings.events_kept.is_none() {
            return RecorderSource::off(self.parts.metrics.clone());
        }
        let (source, writing) = recorder::start(self.parts.pool.clone(), self.parts.metrics.clone());
        tasks.spawn(writing);
        source
    }

    fn reader(&self, status: Arc<Status>, term: u64, recorder: RecorderSource) -> Reader {
        Reader {
            router: self.parts.router.clone(),
            metrics: self.parts.metrics.clone(),
            caretaker: self.caretaker(status.clone()),
            status,
            names: self.names.clone(),
            term,
            recorder,
            spilling: self.settings.spill.clone(),
            is_refused: false,
            opening: None,
        }
    }

    fn status_task(&self, status: Arc<Status>) -> StatusTask {
        StatusTask {
            pool: self.parts.pool.clone(),
            status,
            scopes: self.group.scopes.clone(),
            names: self.names.clone(),
            url: self.group.url.clone(),
            holder: self.settings.holder.clone(),
            metrics: self.parts.metrics.clone(),
            every: self.settings.report_every.clamp(REPORT_MIN, REPORT_MAX),
        }
    }

    /// Shows that nobody reads here any more: who was told to stop, and who is left for another process to read.
    async fn say_goodbye(&self, status: Arc<Status>) {
        let writer = self.status_task(status);
        let said = async {
            let stopped = cdc::stopped(&self.parts.pool).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot see who was told to stop");
                Vec::new()
            });
            let others_go_on = self.group.scopes.iter().any(|scope| !stopped.contains(scope));
            let why = |scope: &Scope| match (stopped.contains(scope), others_go_on) {
                (true, true) => Trouble::told_to_stop_beside_others(),
                (true, false) => Trouble::told_to_stop(),
                (false, _) => Trouble::leader_left(),
            };
            writer.write_farewell(why).await;
        };
        if tokio::time::timeout(LAST_WORDS, said).await.is_err() {
            tracing::debug!("could not write the reader's last status");
        }
        self.parts.metrics.clear_cdc_lag(&self.names.slot);
    }
}

/// Renews the lease until `session` ends, and ends it when the lease is another's. While leases do not answer this goes
/// on: whatever a leader appends, spills or confirms is fenced by its term, and a target must be read while they are
/// away.
async fn renew(
    leader: Arc<dyn Leader>,
    lease: String,
    term: u64,
    asked: Instant,
    session: CancellationToken,
) {
    let mut renewed = asked;
    let mut is_said = false;
    while !session.is_cancelled() {
        tokio::select! {
            () = session.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
        let asked = Instant::now();
        match leader.renew(&lease, term).await {
            Ok(true) => {
                if std::mem::take(&mut is_said) {
                    tracing::info!(lease, "the lease is renewed again");
                }
                renewed = asked;
            }
            Ok(false) => {
                tracing::warn!(lease, "another process leads now");
                session.cancel();
            }
            Err(error) if renewed.elapsed() >= LEASE && !is_said => {
                is_said = true;
                tracing::warn!(%error, lease, "the lease cannot be renewed; reading goes on until another leads");
            }
            Err(error) => tracing::debug!(%error, lease, "could not renew the lease"),
        }
    }
}

/// Renews the lease that was asked for at `asked` for as long as it surely holds: for what no term fences.
pub(crate) async fn renew_in_time(leader: Arc<dyn Leader>, lease: String, term: u64, asked: Instant) {
    let mut renewed = asked;
    loop {
        tokio::time::sleep_until((Instant::now() + RENEW).min(renewed + LEASE)).await;
        let asked = Instant::now();
        // An answer that comes later than the lease lasts says nothing any more.
        match tokio::time::timeout_at(renewed + LEASE, leader.renew(&lease, term)).await {
            Ok(Ok(true)) => renewed = asked,
            Ok(Ok(false)) => return tracing::warn!(lease, "another process leads now"),
            Ok(Err(error)) if renewed.elapsed() < LEASE => {
                tracing::debug!(%error, lease, "could not renew the lease");
            }
            Ok(Err(_)) | Err(_) => return tracing::warn!(lease, "the lease could not be renewed in time"),
        }
    }
}

#[cfg(test)]
mod tests;
