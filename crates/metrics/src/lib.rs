//! The platform's Prometheus metrics.
//!
//! Owns every metric's name, labels and buckets, and the registry they live in. It must not know who
//! counts: counts enter through the typed methods and handles of [`Metrics`] and leave as Prometheus
//! text from [`Metrics::render`]. There is no global registry: each [`Metrics`] is complete in itself,
//! so that tests and the all-in-one program can hold several.
//!
//! Labels are bounded by type (enums, `&'static str`) or by [`topics::TOPIC_LABEL_LIMIT`].

mod lag;
mod registry;
pub mod topics;

use std::sync::Arc;

use prometheus::{
    Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use lag::WorstLag;
use topics::ReceivedByTopic;

pub use prometheus::{Histogram as HistogramHandle, IntCounter as CounterHandle, IntGauge as GaugeHandle};

/// The content type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The three ways in which a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Socket.IO, over WebSocket or long-polling.
    SocketIo,
    /// Plain WebSocket.
    WebSocket,
    /// Server-sent events.
    ServerSentEvents,
}

impl Transport {
    const ALL: [Self; 3] = [Self::SocketIo, Self::WebSocket, Self::ServerSentEvents];

    /// The value of the `transport` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::SocketIo => "socketio",
            Self::WebSocket => "websocket",
            Self::ServerSentEvents => "sse",
        }
    }
}

/// How an attempt to resume a subscription by position ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecoveryResult {
    /// Everything missed was in the history.
    Recovered,
    /// The history no longer reaches back: the client reloads state.
    Lost,
}

impl RecoveryResult {
    const ALL: [Self; 2] = [Self::Recovered, Self::Lost];

    fn label(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Lost => "lost",
        }
    }
}

/// How one attempt to deliver a webhook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookStatus {
    /// Answered with 2xx.
    Success,
    /// Failed and will be tried again.
    Failure,
    /// Failed for the last time and became a dead letter.
    DeadLetter,
}

impl WebhookStatus {
    const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::DeadLetter];

    fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// Every metric of one process. Cheap to share: clone the `Arc`.
///
/// The public handles are for counts without labels; methods choose the child where there are labels.
pub struct Metrics {
    registry: Registry,
    received: ReceivedByTopic,
    connections: [IntGauge; 3],
    connections_opened: [IntCounter; 3],
    recoveries: IntCounterVec,
    rejected: IntCounterVec,
    queue_depth: IntGaugeVec,
    webhook_deliveries: IntCounterVec,
    cdc_lag: WorstLag,
    cdc_retained: WorstLag,
    cdc_spill: WorstLag,
    outbox_lag: WorstLag,
    /// `realtime_outbox_events_total`: rows of outboxes that became events.
    pub outbox_events: IntCounter,
    /// `realtime_outbox_dead_letters_total`: rows of outboxes that can never be events.
    pub outbox_dead_letters: IntCounter,
    /// `realtime_events_delivered_total`: events handed to connections.
    pub events_delivered: IntCounter,
    /// `realtime_events_filtered_total`: events held back by a subscription's filter.
    pub events_filtered: IntCounter,
    /// `realtime_broadcast_latency_seconds`: from an event's timestamp to its hand-over to connections.
    pub broadcast_latency: Histogram,
    /// `realtime_slow_consumers_total`: connections closed because their backlog was full.
    pub slow_consumers: IntCounter,
    /// `realtime_appends_total`: events appended to the event log.
    pub appends: IntCounter,
    /// `realtime_append_batch_size`: events committed together.
    pub append_batch_size: Histogram,
    /// `realtime_append_seconds`: from an append's call to its acknowledgement.
    pub append_seconds: Histogram,
    /// `realtime_log_gaps_total`: gaps in a topic's offsets met by a live reader.
    pub log_gaps: IntCounter,
    /// `realtime_messages_delivered_total`: channel messages and presence changes pushed to connections.
    pub messages_delivered: IntCounter,
    /// `realtime_messages_dropped_total`: channel messages that found no room in this process.
    pub messages_dropped: IntCounter,
    /// `realtime_lifecycle_waiting`: beginnings and ends of connections, and changes of presence, that are not in the
    /// log yet.
    pub lifecycle_waiting: IntGauge,
    /// `realtime_log_history_shortened_total`: events whose history ended early because memory ran short.
    pub log_history_shortened: IntCounter,
    /// `realtime_log_backlog_ratio`: what side-effect readers have yet to read, as a share of the limit (0 to 1).
    pub log_backlog_ratio: Gauge,
    /// `realtime_documents_unflushed`: documents whose last revisions are not in the database yet, over all processes.
    pub documents_unflushed: IntGauge,
    /// `realtime_document_flush_lag_seconds`: for how long the oldest of these waits.
    pub document_flush_lag: Gauge,
    /// `realtime_documents_flushed_total`: documents written to the database by this process.
    pub documents_flushed: IntCounter,
    /// `realtime_document_flush_failures_total`: flushes that failed; their documents stay unflushed.
    pub document_flush_failures: IntCounter,
    /// `realtime_document_flush_refusals_total`: documents of which the database held a higher revision than Redis.
    pub document_flush_refusals: IntCounter,
    /// `realtime_document_conflicts_total`: edits that met another process's write and were applied again.
    pub document_conflicts: IntCounter,
    /// `realtime_subscriptions`: subscriptions held by this process's connections.
    pub subscriptions: IntGauge,
    /// `realtime_cdc_rows_total`: row changes read from replication streams.
    pub cdc_rows: IntCounter,
    /// `realtime_cdc_events_total`: events that mappings made of row changes.
    pub cdc_events: IntCounter,
    /// `realtime_cdc_filtered_total`: row changes that a mapping's rules held back.
    pub cdc_filtered: IntCounter,
    /// `realtime_cdc_failed_total`: row changes that a mapping could not be evaluated against.
    pub cdc_failed: IntCounter,
    /// `realtime_cdc_unrecorded_total`: row changes left out of the event history, because it could not keep up.
    pub cdc_unrecorded: IntCounter,
    /// `realtime_cdc_spilled_total`: events of row changes kept aside because the event log did not take them.
    pub cdc_spilled: IntCounter,
    /// `realtime_cdc_interruptions_total`: replication streams that ended and were begun again.
    pub cdc_interruptions: IntCounter,
}

impl Metrics {
    /// A complete set of metrics, all at zero, in a registry of its own.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        registry::register_process(&registry);
        let r = &registry;
        let metrics = Self {
            received: ReceivedByTopic::new(registry::counter_vec(
                r,
                "realtime_events_received_total",
                "Events received, by source and topic",
                &["source", "topic"],
            )),
            connections: connection_gauges(r),
            connections_opened: connection_counters(r),
            recoveries: registry::counter_vec(
                r,
                "realtime_recoveries_total",
                "Subscriptions resumed by position, by result",
                &["result"],
            ),
            rejected: registry::counter_vec(
                r,
                "realtime_rejected_total",
                "Requests and messages refused, by reason",
                &["reason"],
            ),
            queue_depth: registry::gauge_vec(r, "realtime_queue_depth", "Jobs waiting, by queue", &["queue"]),
            webhook_deliveries: registry::counter_vec(
                r,
                "realtime_webhook_deliveries_total",
                "Webhook delivery attempts, by status",
                &["status"],
            ),
            cdc_lag: WorstLag::new(
                registry::float_gauge(
                    r,
                    "realtime_cdc_lag_seconds",
                    "Replication lag of the slowest target, in seconds",
                ),
                registry::gauge(
                    r,
                    "realtime_cdc_lag_bytes",
                    "Write-ahead log not yet confirmed, slowest target",
                ),
            ),
            cdc_retained: WorstLag::new(
                registry::float_gauge(
                    r,
                    "realtime_cdc_retained_ratio",
                    "Write-ahead log that a target keeps for its slot, as a share of what it may keep, worst target",
                ),
                registry::gauge(
                    r,
                    "realtime_cdc_retained_bytes",
                    "Write-ahead log that a target keeps for its slot, worst target",
                ),
            ),
            cdc_spill: WorstLag::new(
                registry::float_gauge(
                    r,
                    "realtime_cdc_spilled_seconds",
                    "How long the oldest event has waited that the event log did not take, worst target",
                ),
                registry::gauge(
                    r,
                    "realtime_cdc_spilled_bytes",
                    "Events kept aside because the event log does not take them, in bytes, worst target",
                ),
            ),
            outbox_lag: WorstLag::new(
                registry::float_gauge(
                    r,
                    "realtime_outbox_lag_seconds",
                    "Age of the oldest row that waits in an outbox, slowest outbox",
                ),
                registry::gauge(r, "realtime_outbox_pending", "Rows that wait in the fullest outbox"),
            ),
            outbox_events: registry::counter(
                r,
                "realtime_outbox_events_total",
                "Rows of outboxes that became events",
            ),
            outbox_dead_letters: registry::counter(
                r,
                "realtime_outbox_dead_letters_total",
                "Rows of outboxes that can never be events",
            ),
            events_delivered: registry::counter(
                r,
                "realtime_events_delivered_total",
                "Events delivered to subscribers",
            ),
            events_filtered: registry::counter(
                r,
                "realtime_events_filtered_total",
                "Events filtered out by subscription filters",
            ),
            broadcast_latency: registry::histogram(
                r,
                "realtime_broadcast_latency_seconds",
                "From an event's timestamp to its hand-over to connections",
                registry::LATENCY_BUCKETS,
            ),
            slow_consumers: registry::counter(
                r,
                "realtime_slow_consumers_total",
                "Connections closed for a full backlog",
            ),
            appends: registry::counter(r, "realtime_appends_total", "Events appended to the event log"),
            append_batch_size: registry::histogram(
                r,
                "realtime_append_batch_size",
                "Events committed together",
                registry::BATCH_BUCKETS,
            ),
            append_seconds: registry::histogram(
                r,
                "realtime_append_seconds",
                "From an append's call to its acknowledgement",
                registry::LATENCY_BUCKETS,
            ),
            log_gaps: registry::counter(
                r,
                "realtime_log_gaps_total",
                "Gaps in a topic's offsets met by live readers",
            ),
            messages_delivered: registry::counter(
                r,
                "realtime_messages_delivered_total",
                "Channel messages and presence changes pushed to connections",
            ),
            messages_dropped: registry::counter(
                r,
                "realtime_messages_dropped_total",
                "Channel messages dropped because their readers were behind",
            ),
            lifecycle_waiting: registry::gauge(
                r,
                "realtime_lifecycle_waiting",
                "Beginnings and ends of connections, and changes of presence, not yet in the event log",
            ),
            log_history_shortened: registry::counter(
                r,
                "realtime_log_history_shortened_total",
                "Events whose history ended early because memory ran short",
            ),
            log_backlog_ratio: registry::float_gauge(
                r,
                "realtime_log_backlog_ratio",
                "What side-effect readers have yet to read of the event log, as a share of its limit",
            ),
            documents_unflushed: registry::gauge(
                r,
                "realtime_documents_unflushed",
                "Documents whose last revisions are not in the database yet, over all processes",
            ),
            document_flush_lag: registry::float_gauge(
                r,
                "realtime_document_flush_lag_seconds",
                "For how long the oldest unflushed document waits for the database, in seconds",
            ),
            documents_flushed: registry::counter(
                r,
                "realtime_documents_flushed_total",
                "Documents written from Redis to the database",
            ),
            document_flush_failures: registry::counter(
                r,
                "realtime_document_flush_failures_total",
                "Flushes of documents that failed, to be tried again",
            ),
            document_flush_refusals: registry::counter(
                r,
                "realtime_document_flush_refusals_total",
                "Documents of which the database held a higher revision than Redis",
            ),
            document_conflicts: registry::counter(
                r,
                "realtime_document_conflicts_total",
                "Edits that met another process's write and were applied again",
            ),
            subscriptions: registry::gauge(
                r,
                "realtime_subscriptions",
                "Subscriptions held by this process's connections",
            ),
            cdc_rows: registry::counter(
                r,
                "realtime_cdc_rows_total",
                "Row changes read from replication streams",
            ),
            cdc_events: registry::counter(r, "realtime_cdc_events_total", "Events made of row changes"),
            cdc_filtered: registry::counter(
                r,
                "realtime_cdc_filtered_total",
                "Row changes held back by a mapping's rules",
            ),
            cdc_failed: registry::counter(
                r,
                "realtime_cdc_failed_total",
                "Row changes that a mapping does not fit",
            ),
            cdc_unrecorded: registry::counter(
                r,
                "realtime_cdc_unrecorded_total",
                "Row changes left out of the event history of change data capture",
            ),
            cdc_spilled: registry::counter(
                r,
                "realtime_cdc_spilled_total",
                "Events of row changes kept aside because the event log did not take them",
            ),
            cdc_interruptions: registry::counter(
                r,
                "realtime_cdc_interruptions_total",
                "Replication streams that ended and were begun again",
            ),
            registry,
        };
        metrics.show_zeroes();
        Arc::new(metrics)
    }

    /// Makes the children whose labels are known beforehand, so that a fresh process already shows
    /// every documented name and rates have a zero to start from.
    fn show_zeroes(&self) {
        for result in RecoveryResult::ALL {
            self.recoveries.with_label_values(&[result.label()]);
        }
        for status in WebhookStatus::ALL {
            self.webhook_deliveries.with_label_values(&[status.label()]);
        }
        self.queue_depth.with_label_values(&["webhook-delivery"]);
    }

    /// Counts one event received. `source` is `database`, `sync` or `socket`. Cheap: one map lookup.
    pub fn received(&self, source: &str, topic: &str) {
        self.received.count(source, topic, 1);
    }

    /// Counts `events` received at once from one `source` on one `topic`.
    pub fn received_many(&self, source: &str, topic: &str, events: u64) {
        self.received.count(source, topic, events);
    }

    /// A connection was opened: `realtime_websocket_connections` and `realtime_connections_total`.
    pub fn connection_opened(&self, transport: Transport) {
        self.connections[transport as usize].inc();
        self.connections_opened[transport as usize].inc();
    }

    /// A connection that [`Self::connection_opened`] counted has ended.
    pub fn connection_closed(&self, transport: Transport) {
        self.connections[transport as usize].dec();
    }

    /// Open connections of one transport in this process.
    pub fn connections(&self, transport: Transport) -> i64 {
        self.connections[transport as usize].get()
    }

    /// Counts something refused: `realtime_rejected_total{reason}`. `reason` is an error code.
    pub fn rejected(&self, reason: &'static str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// Counts an attempt to resume by position: `realtime_recoveries_total{result}`.
    pub fn recovery(&self, result: RecoveryResult) {
        self.recoveries.with_label_values(&[result.label()]).inc();
    }

    /// Sets a queue's depth in jobs: `realtime_queue_depth{queue}`.
    pub fn set_queue_depth(&self, queue: &'static str, jobs: i64) {
        self.queue_depth.with_label_values(&[queue]).set(jobs);
    }

    /// Counts a delivery attempt: `realtime_webhook_deliveries_total{status}`.
    pub fn webhook_delivery(&self, status: WebhookStatus) {
        self.webhook_deliveries.with_label_values(&[status.label()]).inc();
    }

    /// Records one replication target's lag; the gauges show the slowest target's.
    pub fn set_cdc_lag(&self, slot: &str, lag_seconds: f64, lag_bytes: u64) {
        self.cdc_lag.set(slot, lag_seconds, lag_bytes);
    }

    /// Forgets a target that this process no longer reads, so that its last lag does not stay for ever.
    pub fn clear_cdc_lag(&self, slot: &str) {
        self.cdc_lag.clear(slot);
        self.cdc_retained.clear(slot);
        self.cdc_spill.clear(slot);
    }

    /// Records how much log one target keeps for its slot; the gauges show the worst.
    pub fn set_cdc_retained(&self, slot: &str, share: f64, bytes: u64) {
        self.cdc_retained.set(slot, share, bytes);
    }

    /// Records how long the oldest spilled event of one target has waited, and how much is spilled; the gauges show the
    /// worst.
    pub fn set_cdc_spilled(&self, slot: &str, waits_seconds: f64, bytes: u64) {
        self.cdc_spill.set(slot, waits_seconds, bytes);
    }

    /// Records how one outbox stands; the gauges show the slowest and the fullest one.
    pub fn set_outbox_lag(&self, outbox: &str, lag_seconds: f64, pending: u64) {
        self.outbox_lag.set(outbox, lag_seconds, pending);
    }

    /// Forgets an outbox that this process no longer reads.
    pub fn clear_outbox_lag(&self, outbox: &str) {
        self.outbox_lag.clear(outbox);
    }

    /// Everything as Prometheus text ([`CONTENT_TYPE`]).
    pub fn render(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("gathered families are well formed and a Vec takes every write");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// The gauges of `realtime_websocket_connections`, in the order of [`Transport::ALL`].
fn connection_gauges(registry: &Registry) -> [IntGauge; 3] {
    let family = registry::gauge_vec(
        registry,
        "realtime_websocket_connections",
        "Open client connections, by transport",
        &["transport"],
    );
    Transport::ALL.map(|transport| family.with_label_values(&[transport.label()]))
}

/// The counters of `realtime_connections_total`, in the order of [`Transport::ALL`].
fn connection_counters(registry: &Registry) -> [IntCounter; 3] {
    let family = registry::counter_vec(
        registry,
        "realtime_connections_total",
        "Client connections opened, by transport",
        &["transport"],
    );
    Transport::ALL.map(|transport| family.with_label_values(&[transport.label()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that the monitoring documentation promises.
    const DOCUMENTED: [&str; 8] = [
        "realtime_events_received_total",
        "realtime_events_delivered_total",
        "realtime_events_filtered_total",
        "realtime_broadcast_latency_seconds",
        "realtime_websocket_connections",
        "realtime_queue_depth",
        "realtime_webhook_deliveries_total",
        "realtime_cdc_lag_seconds",
    ];

    #[test]
    fn a_fresh_process_shows_every_documented_name() {
        let text = Metrics::new().render();
        for name in DOCUMENTED {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing from\n{text}");
        }
        if cfg!(target_os = "linux") {
            assert!(text.contains("process_resident_memory_bytes"));
        }
    }

    #[test]
    fn counts_appear_under_their_labels() {
        let metrics = Metrics::new();
        metrics.received("socket", "orders.created");
        metrics.received_many("database", "orders.created", 4);
        metrics.connection_opened(Transport::SocketIo);
        metrics.connection_opened(Transport::SocketIo);
        metrics.connection_closed(Transport::SocketIo);
        metrics.rejected("LIMIT_EXCEEDED");
        metrics.recovery(RecoveryResult::Recovered);
        metrics.webhook_delivery(WebhookStatus::Success);
        metrics.set_queue_depth("webhook-delivery", 7);
        metrics.append_batch_size.observe(200.0);

        let text = metrics.render();
        for line in [
            "realtime_events_received_total{source=\"socket\",topic=\"orders.created\"} 1",
            "realtime_events_received_total{source=\"database\",topic=\"orders.created\"} 4",
            "realtime_websocket_connections{transport=\"socketio\"} 1",
            "realtime_connections_total{transport=\"socketio\"} 2",
            "realtime_rejected_total{reason=\"LIMIT_EXCEEDED\"} 1",
            "realtime_recoveries_total{result=\"recovered\"} 1",
            "realtime_webhook_deliveries_total{status=\"success\"} 1",
            "realtime_queue_depth{queue=\"webhook-delivery\"} 7",
            "realtime_append_batch_size_sum 200",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
        assert_eq!(metrics.connections(Transport::SocketIo), 1);
    }

    #[test]
    fn each_set_is_independent() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.appends.inc();
        assert_eq!((one.appends.get(), other.appends.get()), (1, 0));
    }
}
