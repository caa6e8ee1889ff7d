//! What a reader says of itself: kept in memory, written to the platform's database now and then and on change.

use crate::{
    evaluate::MISFIT_CURE,
    plan::Fit,
    preflight::RETAINED_WARNING,
    size::Size,
    spill::Spill,
    target::{Names, TargetUrl, inspect::Retained},
    trouble::{Trouble, cure_of_target},
};
use database::{
    Pool,
    tables::{
        cdc::{Gap, MappingState, MappingStatus, ReaderState, ReaderStatus, StatusWriter, write_status},
        cdc_spill::SpillSize,
    },
};
use event_router::now_ms;
use metrics::Metrics;
use parking_lot::Mutex;
use shared_types::{MappingId, Scope};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Over how long rates are taken.
const RATED: Duration = Duration::from_secs(1);
/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_millis(50);
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A log position as Postgres writes it.
pub(crate) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

#[derive(Default)]
struct Shown {
    state: ReaderState,
    trouble: Option<Trouble>,
    mappings: BTreeMap<(Scope, MappingId), MappingStatus>,
    misfits: BTreeMap<(Scope, MappingId), String>,
    gap: Option<Gap>,
    retained: Option<Retained>,
    spilled: Option<Spilled>,
    /// Since when it is not read although it is to be.
    unread: Option<Instant>,
}

/// What the tasks of one reader know of it.
pub(crate) struct Status {
    shown: Mutex<Shown>,
    changed: Notify,
    /// Row changes read.
    pub rows: AtomicU64,
    /// Events appended.
    pub events: AtomicU64,
    /// Up to where the target may forget.
    pub confirmed: AtomicU64,
    /// The end of the target's log as last heard.
    pub wal_end: AtomicU64,
    /// From commit to append of what was appended last, milliseconds; 0 when nothing is on its way.
    pub lag_ms: AtomicI64,
}

impl Status {
    /// Of a reader that has not begun.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            shown: Mutex::new(Shown {
                state: ReaderState::Connecting,
                unread: Some(Instant::now()),
                ..Shown::default()
            }),
            changed: Notify::new(),
            rows: AtomicU64::new(0),
            events: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            wal_end: AtomicU64::new(0),
            lag_ms: AtomicI64::new(0),
        })
    }

    /// What it does now. A trouble stays until it streams or stops.
    pub fn set(&self, state: ReaderState, trouble: Option<Trouble>) {
        let mut shown = self.shown.lock();
        if shown.state == ReaderState::Error && state == ReaderState::Connecting {
            return;
        }
        if shown.state != state || shown.trouble != trouble {
            shown.unread = match state {
                ReaderState::Streaming | ReaderState::Stopped => None,
                ReaderState::Connecting | ReaderState::Error => shown.unread.or_else(|| Some(Instant::now())),
            };
            shown.state = state;
            shown.trouble = trouble;
            self.changed.notify_one();
        }
    }

    /// How each mapping stands.
    pub fn set_mappings(&self, mappings: BTreeMap<(Scope, MappingId), MappingStatus>) {
        let mut shown = self.shown.lock();
        shown.misfits.retain(|key, _| mappings.contains_key(key));
        shown.mappings = mappings;
        self.changed.notify_one();
    }

    /// Whether everything of a mapping that is committed from now on is looked at.
    pub fn is_live(&self, scope: &Scope, mapping: &MappingId) -> bool {
        let shown = self.shown.lock();
        let status = shown.mappings.get(&(scope.clone(), mapping.clone()));
        status.is_some_and(|status| status.state == MappingState::Live)
    }

    /// How mappings fit their tables, as the stream described these last.
    pub fn set_fits(&self, fits: Vec<Fit>) {
        let mut shown = self.shown.lock();
        for Fit { scope, mapping, misfit } in fits {
            match misfit {
                Some(reason) => shown.misfits.insert((scope, mapping), reason),
                None => shown.misfits.remove(&(scope, mapping)),
            };
        }
        self.changed.notify_one();
    }

    /// How much of the target's log the slot keeps, where that is known.
    pub fn set_retained(&self, retained: Option<Retained>) {
        let mut shown = self.shown.lock();
        if let Some(retained) = retained {
            let here = u64::try_from(retained.here).unwrap_or(0);
            self.wal_end.fetch_max(here, Ordering::Relaxed);
            let crosses =
                |retained: Retained| retained.share().is_some_and(|share| share >= RETAINED_WARNING);
            if crosses(retained) && !shown.retained.is_some_and(crosses) {
                let bytes = retained.retained_bytes;
                tracing::warn!(
                    cdc.retained_bytes = bytes,
                    "the slot nears the limit of what the target keeps for it"
                );
            }
        }
        shown.retained = retained;
    }

    /// The slot is given up: nothing is kept for it, and nothing waits.
    pub fn forget_slot(&self) {
        self.lag_ms.store(0, Ordering::Relaxed);
        self.confirmed.store(0, Ordering::Relaxed);
        self.wal_end.store(0, Ordering::Relaxed);
        self.set_retained(None);
    }

    /// See [`Status::set_retained`].
    pub fn retained(&self) -> Option<Retained> {
        self.shown.lock().retained
    }

    /// So many events are in the log.
    pub fn sent(&self, metrics: &Metrics, events: usize) {
        metrics.cdc_events.inc_by(events as u64);
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// What is spilled; `None` where nothing is.
    pub fn set_spilled(&self, spilled: Option<Spilled>) {
        let mut shown = self.shown.lock();
        if shown.spilled.is_some() != spilled.is_some() {
            self.changed.notify_one();
        }
        shown.spilled = spilled;
    }

    /// See [`Status::set_spilled`].
    pub fn spilled(&self) -> Option<Spilled> {
        self.shown.lock().spilled
    }

    /// Changes were lost.
    pub fn set_gap(&self, gap: Gap) {
        self.shown.lock().gap = Some(gap);
        self.changed.notify_one();
    }

    /// For how long what is committed may wait already: as what was appended last did, or since it is not read.
    fn lag(&self) -> Duration {
        let appended = Duration::from_millis(self.lag_ms.load(Ordering::Relaxed).max(0).unsigned_abs());
        let unread = self.shown.lock().unread.map(|since| since.elapsed());
        appended.max(unread.unwrap_or_default())
    }

    /// Bytes of the target's log that are not confirmed.
    pub fn lag_bytes(&self) -> u64 {
        let end = self.wal_end.load(Ordering::Relaxed);
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        if confirmed == 0 { 0 } else { end.saturating_sub(confirmed) }
    }

    fn of_scope(&self, scope: &Scope, task: &StatusTask, rate: f64) -> ReaderStatus {
        let StatusTask { names, url, holder, .. } = task;
        let shown = self.shown.lock();
        let confirmed = self.confirmed.load(Ordering::Relaxed);
        let streams = shown.state == ReaderState::Streaming;
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let trouble = shown.trouble.clone().or_else(|| shown.danger()).or_else(|| shown.spilled?.trouble());
        ReaderStatus {
            state: shown.state,
            code: trouble.as_ref().map(|t| t.code.to_owned()),
            message: trouble.as_ref().map(|t| t.message.clone()),
            cure: trouble.map(|t| cure_of_target(&t.cure, url)),
            slot: Some(names.slot.clone()),
            publication: Some(names.publication.clone()),
            lag_bytes: (confirmed > 0).then(|| signed(self.lag_bytes())),
            retained_bytes: shown.retained.map(|retained| retained.retained_bytes),
            retained_share: shown.retained.and_then(|retained| retained.share()),
            spilled_events: shown.spilled.map_or(0, |spilled| spilled.size.events),
            spilled_bytes: shown.spilled.map_or(0, |spilled| spilled.size.bytes),
            lag_seconds: streams.then(|| self.lag_ms.load(Ordering::Relaxed) as f64 / 1000.0),
            last_lsn: (confirmed > 0).then(|| lsn_text(confirmed)),
            rows_per_second: rate,
            rows_total: signed(self.rows.load(Ordering::Relaxed)),
            events_total: signed(self.events.load(Ordering::Relaxed)),
            mappings: shown
                .mappings
                .iter()
                .filter(|((s, _), _)| s == scope)
                .map(|(key, m)| shown.fitting(key, m, url))
                .collect(),
            gap: shown.gap.clone(),
            leader: Some(holder.clone()),
            updated_at: 0,
        }
    }
}

/// What waits in the platform's database, because the log does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spilled {
    size: SpillSize,
    is_full: bool,
    /// When the oldest was committed, Unix milliseconds.
    oldest_ms: Option<i64>,
}

impl Spilled {
    /// Of `spill`.
    pub fn of(spill: &Spill) -> Self {
        Self { size: spill.size(), is_full: spill.is_full(), oldest_ms: spill.oldest_ms() }
    }

    fn trouble(&self) -> Option<Trouble> {
        let SpillSize { events, bytes } = self.size;
        let size = Size::of(bytes);
        if events == 0 {
            return None;
        }
        let what =
            format!("the event log takes no events; {events} wait in the platform's database ({size})");
        Some(if self.is_full {
            let what = format!("{what}, which is the limit: from here on the target keeps its log");
            Trouble::new("SPILL_FULL", what, "mend the event log (see /ready), or raise CDC_SPILL_BYTES")
        } else {
            Trouble::new(
                "SPILLING",
                what,
                "mend the event log (see /ready); they are sent in order by themselves",
            )
        })
    }
}

impl Shown {
    /// The slot is about to lose what it has not read.
    fn danger(&self) -> Option<Trouble> {
        let retained = self.retained?;
        let share = retained.share().filter(|share| *share >= RETAINED_WARNING)?;
        let message = format!(
            "the slot keeps {} of log, {:.0} % of max_slot_wal_keep_size: past 100 % changes are lost",
            Size::of(retained.retained_bytes),
            share * 100.0
        );
        Some(Trouble::new(
            "SLOT_RETAINS",
            message,
            "see why it is not read faster, or raise max_slot_wal_keep_size",
        ))
    }

    /// A mapping's status, with what does not fit.
    fn fitting(&self, key: &(Scope, MappingId), status: &MappingStatus, url: &TargetUrl) -> MappingStatus {
        match self.misfits.get(key) {
            Some(reason) if status.state == MappingState::Live => MappingStatus {
                state: MappingState::Error,
                code: Some("MISFIT".to_owned()),
                message: Some(reason.clone()),
                cure: Some(MISFIT_CURE.to_owned()),
                ..status.clone()
            },
            _ => MappingStatus {
                cure: status.cure.as_deref().map(|cure| cure_of_target(cure, url)),
                ..status.clone()
            },
        }
    }
}

/// Writes a reader's status until `stop`, and once more then.
pub(crate) struct StatusTask {
    /// Where to.
    pub pool: Pool,
    /// What of.
    pub status: Arc<Status>,
    /// Whose.
    pub scopes: Vec<Scope>,
    /// The slot and the publication.
    pub names: Names,
    /// Where the target is, and who reads it.
    pub url: TargetUrl,
    /// Which process.
    pub holder: String,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// How often it is written where nothing changes.
    pub every: Duration,
}

impl StatusTask {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (mut rows, mut since) = (self.status.rows.load(Ordering::Relaxed), Instant::now());
        let mut rate = 0.0;
        while !stop.is_cancelled() {
            if since.elapsed() >= RATED {
                let now = self.status.rows.load(Ordering::Relaxed);
                rate = (now - rows) as f64 / since.elapsed().as_secs_f64();
                (rows, since) = (now, Instant::now());
            }
            self.write(rate).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.every) => {}
                () = self.status.changed.notified() => tokio::time::sleep(GATHER).await,
            }
        }
        self.metrics.clear_cdc_lag(&self.names.slot);
    }

    /// Writes it now, for each scope.
    pub async fn write(&self, rate: f64) {
        let lag = self.status.lag().as_secs_f64();
        self.metrics.set_cdc_lag(&self.names.slot, lag, self.status.lag_bytes());
        let (share, bytes) = self.status.retained().map_or((0.0, 0), |retained| {
            (retained.share().unwrap_or(0.0), u64::try_from(retained.retained_bytes).unwrap_or(0))
        });
        self.metrics.set_cdc_retained(&self.names.slot, share, bytes);
        let spilled = self.status.spilled();
        let waits =
            spilled.and_then(|spilled| spilled.oldest_ms).map_or(0, |oldest| (now_ms() - oldest).max(0));
        let bytes = spilled.map_or(0, |spilled| spilled.size.bytes.unsigned_abs());
        self.metrics.set_cdc_spilled(&self.names.slot, waits as f64 / 1000.0, bytes);
        for scope in &self.scopes {
            self.write_one(scope, &self.status.of_scope(scope, self, rate)).await;
        }
    }

    /// Writes for each scope that this process does not read any more, and why. No leader stands there then, so that
    /// whoever knows better says so at once.
    pub async fn write_farewell(&self, why: impl Fn(&Scope) -> Trouble) {
        for scope in &self.scopes {
            let Trouble { code, message, cure } = why(scope);
            let status = ReaderStatus {
                state: ReaderState::Stopped,
                code: Some(code.to_owned()),
                message: Some(message),
                cure: Some(cure),
                lag_seconds: None,
                leader: None,
                ..self.status.of_scope(scope, self, 0.0)
            };
            self.write_one(scope, &status).await;
        }
    }

    async fn write_one(&self, scope: &Scope, status: &ReaderStatus) {
        let written = write_status(&self.pool, scope, StatusWriter::Leader, status);
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, app.id = %scope.application(), "could not write the reader's status");
            }
            Err(_) => {
                tracing::debug!(app.id = %scope.application(), "could not write the reader's status in time");
            }
        }
    }
}
