//! One run of a target's stream: read, evaluate, append or spill, confirm.

use crate::{
    appends::{Acknowledged, Appends},
    caretaker::Prepared,
    pgoutput::Message,
    plan::{Place, Plan, Relations, Tally, Witness},
    reader::{Failure, Reader},
    recorder::Recorder,
    seen::{Expected, SeenKeeper},
    snapshots::{Snapshots, ToStream},
    spill::{Drain, Spill, SpillError, Step},
    status::{Spilled, Status},
    stream::{Frame, ReplicationStream},
    target::{self, TargetUrl},
    trouble::Trouble,
};
use bytes::Bytes;
use database::tables::cdc_slots::Seen;
use event_router::now_ms;
use metrics::Metrics;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

/// How often a moved position is confirmed.
const CONFIRM: Duration = Duration::from_millis(250);
/// How often the server is told that this side lives, whatever happens.
const ALIVE: Duration = Duration::from_secs(2);
/// Frames between two looks at everything else.
const ARRIVED: usize = 512;

/// One run of the stream.
pub(crate) struct Session {
    stream: ReplicationStream,
    appends: Appends,
    relations: Relations,
    plan: watch::Receiver<Arc<Plan>>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    url: TargetUrl,
    source: Arc<str>,
    /// The creation of the slot, and what was read last of it.
    creation: Arc<str>,
    seen: Arc<SeenKeeper>,
    /// What was read before and has to come again; until it has, nothing is confirmed.
    expected: Option<Expected>,
    term: u64,
    /// The open transaction: its commit's place and time, and the number of its next change.
    lsn: u64,
    commit_ms: i64,
    ordinal: u64,
    rows: u64,
    tally: Tally,
    recorder: Recorder,
    snapshots: Snapshots,
    /// What empties the spill, as long as anything is in it or goes into it.
    drain: Option<Drain>,
    /// After how long a log counts as stuck; `None` where the spill would be stuck with it.
    slow_after: Option<Duration>,
    told: u64,
    told_at: Instant,
}

impl Session {
    /// A run of `stream`, which begins with what is in `spill`, and has to hold what is `expected`.
    pub fn new(
        reader: &Reader,
        stream: ReplicationStream,
        prepared: &Prepared,
        expected: Option<Expected>,
        plan: watch::Receiver<Arc<Plan>>,
        inbox: mpsc::Receiver<ToStream>,
        spill: Arc<Spill>,
    ) -> Self {
        let is_refused = reader.is_refused && spill.is_allowed();
        let spill = Some(spill).filter(|spill| is_refused || spill.size().events > 0);
        let drain = spill.clone().map(|spill| Drain::new(spill, reader.router.clone(), is_refused));
        let source = format!("{}:{}:{}", stream.system, stream.timeline, prepared.creation);
        let current = plan.borrow().clone();
        Self {
            stream,
            appends: Appends::new(reader.router.clone(), spill),
            relations: Relations::new(current, &reader.names.slot),
            plan,
            status: reader.status.clone(),
            metrics: reader.metrics.clone(),
            url: reader.caretaker.charge.group.url.clone(),
            source: source.into(),
            creation: prepared.creation.as_str().into(),
            seen: reader.caretaker.seen.clone(),
            expected,
            term: reader.term,
            lsn: 0,
            commit_ms: 0,
            ordinal: 0,
            rows: 0,
            tally: Tally::default(),
            recorder: reader.recorder.recorder(),
            snapshots: Snapshots::new(inbox),
            drain,
            slow_after: reader.spilling.slow_after.filter(|_| reader.spilling.limit_bytes > 0),
            told: 0,
            told_at: Instant::now(),
        }
    }

    /// Reads until something fails.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn run(&mut self) -> Result<(), Failure> {
        let mut tick = interval(CONFIRM);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.appends.start()
                && let Some(drain) = &mut self.drain
            {
                drain.pushed();
            }
            self.publish_progress();
            tokio::select! {
                biased;
                acknowledged = self.appends.settled(), if self.appends.is_in_flight() => {
                    self.acknowledged(acknowledged?);
                }
                step = step(&mut self.drain) => self.drained(step?),
                _ = tick.tick() => {
                    self.look_at_log()?;
                    self.tell().await?;
                }
                frame = self.stream.next(), if self.has_room() => {
                    self.take(frame?).await?;
                    self.take_arrived().await?;
                }
            }
        }
    }

    /// Reads no more, waits for what is on its way to the log, and confirms it, so that whoever reads next, be it into
    /// another log, begins behind it. What takes longer than `limit` is read again.
    pub async fn finish(&mut self, limit: Duration) {
        let settle = async {
            if self.appends.is_in_flight() {
                let acknowledged = self.appends.settled().await?;
                self.acknowledged(acknowledged);
            }
            self.publish_progress();
            self.tell().await
        };
        if !matches!(tokio::time::timeout(limit, settle).await, Ok(Ok(()))) {
            tracing::debug!("could not confirm what was read last; it is read again");
        }
    }

    /// Whether more may be read: while the spill is emptied nothing is put into it, unless the log is stuck.
    fn has_room(&self) -> bool {
        let is_open = |drain: &Drain| drain.is_stuck(self.slow_after) && !drain.spill().is_full();
        self.appends.has_room() && self.drain.as_ref().is_none_or(is_open)
    }

    fn acknowledged(&mut self, acknowledged: Acknowledged) {
        if let Some(drain) = &mut self.drain
            && acknowledged.spilled
        {
            drain.pushed();
        } else {
            self.status.sent(&self.metrics, acknowledged.events);
            self.status.lag_ms.store((now_ms() - acknowledged.commit_ms).max(0), Ordering::Relaxed);
        }
    }

    fn drained(&mut self, step: Step) {
        match step {
            Step::Sent(events) => self.status.sent(&self.metrics, events),
            Step::Empty if !self.appends.is_in_flight() => {
                tracing::info!("nothing is spilled any more");
                self.drain = None;
                self.appends.straighten();
                self.status.set_spilled(None);
            }
            // What is on its way into the spill has not been looked for.
            Step::Empty | Step::Waiting => {}
        }
    }

    /// Gives an append up that has been under way for too long: its events are spilled. Should it happen yet, the log
    /// recognizes them.
    fn look_at_log(&self) -> Result<(), Failure> {
        let is_late = |limit: Duration| self.appends.in_flight_for().is_some_and(|length| length > limit);
        if self.drain.is_none() && self.slow_after.is_some_and(is_late) {
            return Err(Failure::Refused(Trouble::platform("the event log is too slow")));
        }
        Ok(())
    }

    /// Takes what has arrived already.
    async fn take_arrived(&mut self) -> Result<(), Failure> {
        for _ in 0..ARRIVED {
            if !self.has_room() {
                return Ok(());
            }
            match self.stream.next_now() {
                Some(frame) => self.take(frame?).await?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::Message { bytes, wal_end } => {
                self.status.wal_end.fetch_max(wal_end, Ordering::Relaxed);
                self.message(bytes)?;
                if self.relations.has_news() {
                    self.learn_types().await?;
                }
            }
            Frame::Keepalive { wal_end, reply } => {
                self.status.wal_end.fetch_max(wal_end, Ordering::Relaxed);
                if let Some(expected) = self.expected {
                    expected.reached(wal_end)?;
                }
                self.appends.reached(wal_end);
                if reply {
                    self.stream.confirm(self.confirmed()).await?;
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let message = Message::parse(&bytes)?;
        match message {
            Message::Begin { commit_lsn, commit_ms, xid } => {
                let transaction = Seen { lsn: commit_lsn, commit_ms, xid };
                self.recognize(transaction)?;
                self.adopt_plan()?;
                self.snapshots.begin(xid);
                (self.lsn, self.commit_ms, self.ordinal) = (commit_lsn, commit_ms, 0);
                self.appends.begin(transaction);
            }
            Message::Commit { end_lsn } => self.appends.commit(end_lsn),
            Message::Relation(_) => {
                let fits = self.relations.describe(bytes.clone())?;
                self.status.set_fits(fits);
            }
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => self.row(&message),
            Message::Logical { prefix, content } => {
                let (lsn, now, term) = (self.lsn, now_ms(), self.term);
                for event in self.snapshots.message(prefix, content, lsn, now, term) {
                    self.appends.push(event);
                }
            }
            Message::Other => {}
        }
        Ok(())
    }

    fn row(&mut self, message: &Message<'_>) {
        let place = Place {
            source: &self.source,
            term: self.term,
            lsn: self.lsn,
            commit_ms: self.commit_ms,
            ordinal: self.ordinal,
        };
        if self.snapshots.watches()
            && let Some(relation) = self.relations.of(message)
        {
            self.snapshots.row(relation, message);
        }
        let mut witness = Witness { tally: &mut self.tally, recorder: &mut self.recorder };
        self.relations.evaluate(message, &place, &mut witness, |event| self.appends.push(event));
        self.ordinal += 1;
        self.rows += 1;
    }

    /// Looks whether a transaction that begins is what has to come again.
    fn recognize(&mut self, transaction: Seen) -> Result<(), Failure> {
        if let Some(expected) = self.expected
            && expected.meet(transaction)?
        {
            self.expected = None;
        }
        Ok(())
    }

    /// Up to where the target may forget. As long as it may turn out to be another past, it keeps all.
    fn confirmed(&self) -> u64 {
        if self.expected.is_some() { 0 } else { self.appends.confirmed() }
    }

    /// Asks for the database's own types: one has come since they were asked for, and the next row may hold it.
    async fn learn_types(&mut self) -> Result<(), Failure> {
        let url = self.url.clone();
        let asked = async {
            let mut connection = target::connect(&url).await?;
            target::own_types(&mut connection).await
        };
        let fits = self.relations.learn(target::limited(asked).await?)?;
        self.status.set_fits(fits);
        Ok(())
    }

    /// Takes up a new plan, between transactions.
    fn adopt_plan(&mut self) -> Result<(), Failure> {
        if self.plan.has_changed().unwrap_or(false) {
            let plan = self.plan.borrow_and_update().clone();
            let fits = self.relations.adopt(plan)?;
            self.status.set_fits(fits);
        }
        Ok(())
    }

    fn publish_progress(&mut self) {
        if self.rows > 0 {
            self.status.rows.fetch_add(self.rows, Ordering::Relaxed);
            self.metrics.cdc_rows.inc_by(self.rows);
            self.rows = 0;
            let tally = std::mem::take(&mut self.tally);
            self.metrics.cdc_filtered.inc_by(tally.filtered);
            self.metrics.cdc_failed.inc_by(tally.failed);
        }
        if self.expected.is_none()
            && let Some(seen) = self.appends.seen()
        {
            self.seen.see(&self.creation, seen);
        }
        self.status.confirmed.store(self.confirmed(), Ordering::Relaxed);
        if let Some(oldest) = self.appends.oldest_ms() {
            // What waits is late already, though nobody knows how late it will be.
            self.status.lag_ms.fetch_max(now_ms() - oldest, Ordering::Relaxed);
        }
        if let Some(drain) = &self.drain {
            self.status.set_spilled(Some(Spilled::of(drain.spill())));
            if let Some(oldest) = drain.spill().oldest_ms() {
                self.status.lag_ms.store((now_ms() - oldest).max(0), Ordering::Relaxed);
            }
        }
        self.recorder.confirmed(self.appends.confirmed());
        self.snapshots.confirmed(self.appends.confirmed());
        if self.drain.is_none() && self.appends.is_quiet() {
            self.status.lag_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Confirms where that moved, and shows that this side lives.
    async fn tell(&mut self) -> Result<(), Failure> {
        let confirmed = self.confirmed();
        if confirmed > self.told || self.told_at.elapsed() >= ALIVE {
            self.stream.confirm(confirmed).await?;
            (self.told, self.told_at) = (confirmed, Instant::now());
        }
        Ok(())
    }
}

/// A step of what empties the spill; for ever where nothing does.
async fn step(drain: &mut Option<Drain>) -> Result<Step, SpillError> {
    match drain {
        Some(drain) => drain.step().await,
        None => std::future::pending().await,
    }
}
