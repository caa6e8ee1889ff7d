//! What is removed, when, and what is said while readers are behind.

use database::event_log::{LogSettings, PostgresEventLog};
use database::tables::topics::{self, NewTopic, TopicChange};
use event_log::{Entry, EventLog, Identity, LogError, Outcome, SourcePosition, TopicKey, partition_of};
use metrics::Metrics;
use shared_types::{AppId, Environment, EventId, MappingId, RawObject, Scope, Source, TopicName};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use testkit::TestDatabase;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
const SIZES: &str = "coalesce(sum(octet_length(payload) + octet_length(metadata) + octet_length(event_type) + 128), 0)::bigint";

/// A log that sweeps all the time, and its store.
struct Store {
    log: Arc<PostgresEventLog>,
    metrics: Arc<Metrics>,
    database: TestDatabase,
    _tasks: JoinSet<()>,
}

impl Store {
    async fn start(settings: LogSettings) -> Self {
        let database = testkit::database().await;
        let mut tasks = JoinSet::new();
        let metrics = Metrics::new();
        let settings = LogSettings { sweep_every: Duration::from_millis(20), ..settings };
        let stop = CancellationToken::new();
        let log = PostgresEventLog::start(database.pool.clone(), settings, metrics.clone(), &mut tasks, stop);
        Self { log, metrics, database, _tasks: tasks }
    }

    fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// Appends `count` events to `topic`.
    async fn append(&self, topic: &str, count: usize) {
        for chunk in 0..count.div_ceil(1_000) {
            let entries = (0..(count - chunk * 1_000).min(1_000)).map(|_| entry(topic)).collect();
            self.log.append(entries).await.expect("appended");
        }
    }

    /// Makes every event `minutes` older than it is.
    async fn age(&self, minutes: i32) {
        sqlx::query("update event_log set appended_at = appended_at - make_interval(mins => $1)")
            .bind(minutes)
            .execute(self.pool())
            .await
            .expect("aged");
    }

    /// How many events are kept of each of `topics`.
    async fn kept<const N: usize>(&self, topics: [&str; N]) -> [i64; N] {
        let mut kept = [0; N];
        for (count, topic) in kept.iter_mut().zip(topics) {
            let query = sqlx::query_scalar("select count(*) from event_log e join event_log_topics t on t.id = e.topic_id where t.topic = $1").bind(topic);
            *count = query.fetch_one(self.pool()).await.expect("counted");
        }
        kept
    }

    /// Waits until so many are kept.
    async fn until_kept<const N: usize>(&self, topics: [&str; N], wanted: [i64; N]) {
        let deadline = Instant::now() + PATIENCE;
        while self.kept(topics).await != wanted {
            assert!(Instant::now() < deadline, "{:?} are kept, not {wanted:?}", self.kept(topics).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a whole sweep has begun and ended from now on: it forgets an old id at its very end.
    async fn swept(&self) {
        // Whatever sweep is under way may find the first one; the second is found by one that began later.
        for _ in 0..2 {
            sqlx::query(
                "insert into event_log_ids values ('app_default', 'development', 'swept.now', 'p', 'x', '', '', 0, \
                 now() - interval '2 days')",
            )
            .execute(self.pool())
            .await
            .expect("an old id");
            let deadline = Instant::now() + PATIENCE;
            let left = "select count(*) from event_log_ids where topic = 'swept.now'";
            while sqlx::query_scalar::<_, i64>(left).fetch_one(self.pool()).await.expect("counted") > 0 {
                assert!(Instant::now() < deadline, "nothing is swept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn register(&self, name: &str, history_seconds: Option<i32>) {
        let name = TopicName::parse(name).expect("valid");
        let topic = NewTopic { name: &name, description: "d", owner: "o", history_seconds };
        topics::insert(self.pool(), &scope(), &topic).await.expect("registered");
    }

    /// What the partitions say they hold, and what they hold, in bytes.
    async fn accounts(&self) -> (i64, i64) {
        let said = sqlx::query_scalar("select sum(bytes)::bigint from event_log_partitions");
        let said = said.fetch_one(self.pool()).await.expect("said");
        let held = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {SIZES} from event_log")));
        (said, held.fetch_one(self.pool()).await.expect("held"))
    }
}

fn scope() -> Scope {
    Scope::new(AppId::from_stored("app_default"), Environment::Development)
}

fn entry(topic: &str) -> Entry {
    Entry {
        key: TopicKey::new(&scope(), &TopicName::parse(topic).expect("valid")),
        id: EventId::generate(),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::from_trusted("{\"n\":1}"),
        metadata: RawObject::from_trusted("{\"timestamp\":1}"),
        identity: Identity::Unique,
    }
}

fn an_hour() -> LogSettings {
    LogSettings { history: Duration::from_secs(3600), ..LogSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_topic_keeps_a_history_of_its_own_length() {
    const TOPICS: [&str; 3] = ["short.kept", "long.kept", "plain.kept"];
    let store = Store::start(an_hour()).await;
    store.register("short.kept", Some(60)).await;
    store.register("long.kept", Some(24 * 3600)).await;
    store.register("plain.kept", None).await;
    for topic in TOPICS {
        store.append(topic, 3).await;
    }
    store.swept().await;
    assert_eq!(store.kept(TOPICS).await, [3, 3, 3]);
    store.age(2).await;
    store.until_kept(TOPICS, [0, 3, 3]).await;
    store.age(60).await;
    store.until_kept(TOPICS, [0, 3, 0]).await;

    // What is kept longer stays through another sweep; what is no longer, goes.
    store.swept().await;
    assert_eq!(store.kept(TOPICS).await, [0, 3, 0]);
    let change = TopicChange { history_seconds: Some(None), ..TopicChange::default() };
    topics::update(store.pool(), &scope(), "long.kept", &change).await.expect("changed").expect("there");
    store.until_kept(TOPICS, [0, 0, 0]).await;
    assert_eq!(store.accounts().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_longer_does_not_keep_what_stands_behind_it() {
    // Topics of one service share a partition.
    const TOPICS: [&str; 2] = ["sync.notes.created", "sync.notes.updated"];
    let store = Store::start(an_hour()).await;
    store.register("sync.notes.created", Some(24 * 3600)).await;
    store.append("sync.notes.created", 5_500).await;
    store.append("sync.notes.updated", 7).await;
    store.age(61).await;
    store.until_kept(TOPICS, [5_500, 0]).await;
    store.append("sync.notes.updated", 2).await;
    store.age(61).await;
    store.until_kept(TOPICS, [5_500, 0]).await;
    let (said, held) = store.accounts().await;
    assert_eq!(said, held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_growing_backlog_is_shown_before_appends_are_refused() {
    // Each event counts with a little more than its overhead of 128 bytes.
    let store = Store::start(LogSettings { backlog_bytes: 100 * 158, ..an_hour() }).await;
    let ratio = || store.metrics.log_backlog_ratio.get();
    store.append("unread.all", 60).await;
    store.swept().await;
    assert_eq!(ratio(), 0.0, "what nobody has to read is no backlog");
    let reader = store.log.side_effects("webhooks").await.expect("a group");
    store.append("unread.all", 60).await;
    store.swept().await;
    assert!((0.55..0.65).contains(&ratio()), "{}", ratio());
    assert!(store.metrics.render().contains("\nrealtime_log_backlog_ratio 0."));
    store.append("unread.all", 60).await;
    store.swept().await;
    assert!((1.1..1.3).contains(&ratio()), "{}", ratio());
    let refused = store.log.append(vec![entry("unread.all")]).await;
    assert!(matches!(refused, Err(LogError::BacklogFull)), "{refused:?}");
    let partition = partition_of(&entry("unread.all").key, store.log.partitions());
    let last = reader.read(partition, 1_000).await.expect("read").last().expect("unread").sequence;
    reader.acknowledge(partition, last - 10).await.expect("acknowledged");
    store.swept().await;
    assert!((0.05..0.15).contains(&ratio()), "{}", ratio());
    store.append("unread.all", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_before_every_reader_has_it() {
    const TOPICS: [&str; 2] = ["short.read", "plain.read"];
    let store = Store::start(an_hour()).await;
    store.register("short.read", Some(60)).await;
    let reader = store.log.side_effects("webhooks").await.expect("a group");
    store.append("short.read", 3).await;
    store.append("plain.read", 3).await;
    store.age(120).await;
    store.swept().await;
    assert_eq!(store.kept(TOPICS).await, [3, 3]);
    for partition in 0..store.log.partitions() {
        if let Some(last) = reader.read(partition, 10).await.expect("read").last() {
            reader.acknowledge(partition, last.sequence).await.expect("acknowledged");
        }
    }
    store.until_kept(TOPICS, [0, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_source_has_appended_is_recognized_for_a_day() {
    const SOURCES: [&str; 3] = ["7:1:slot", "backfill:late", "backfill:old"];
    let store = Store::start(an_hour()).await;
    let of = |source: &str| {
        let at = SourcePosition { lsn: 1, ordinal: 0, mapping: MappingId::from_stored("map_1") };
        let identity = Identity::Positioned { source: source.into(), term: 1, at };
        vec![Entry { identity, ..entry("ended.sources") }]
    };
    for source in SOURCES {
        store.log.append(of(source)).await.expect("appended");
    }
    let run = async |sql: &'static str| {
        sqlx::raw_sql(sql).execute(store.pool()).await.expect(sql);
    };
    let known = async || {
        let sql = "select source from event_log_sources order by source";
        sqlx::query_scalar::<_, String>(sql).fetch_all(store.pool()).await.expect("known")
    };
    run("insert into cdc_spills (system_identifier, slot, term, events) values ('7', 'slot', 1, 1)").await;
    run("insert into event_log_ended_sources values ('backfill:old', now() - interval '25 hours'), \
         ('backfill:late', now() - interval '23 hours')")
    .await;
    store.swept().await;
    assert_eq!(known().await, SOURCES, "what is spilled may be of one that ended");
    run("update cdc_spills set events = 0").await;
    store.swept().await;
    assert_eq!(known().await, SOURCES[..2]);
    let ended: Vec<String> = sqlx::query_scalar("select source from event_log_ended_sources")
        .fetch_all(store.pool())
        .await
        .expect("ended");
    assert_eq!(ended, ["backfill:late"]);
    for source in &SOURCES[..2] {
        let outcomes = store.log.append(of(source)).await.expect("answered");
        assert!(matches!(outcomes[..], [Outcome::Repeated(None)]), "{outcomes:?}");
    }
}
