//! What is written is read back, whichever way it was written and whatever became of its topic meanwhile.

use database::{
    event_log::{LogSettings, PostgresEventLog},
    pool::{PoolSettings, connect_lazy},
};
use event_log::{
    Entry, EventLog, HistoryQuery, Identity, LogError, Outcome, PageLimit, Start, StoredEvent, TopicKey,
    partition_of,
};
use metrics::Metrics;
use shared_types::{AppId, Environment, EventId, Position, RawObject, Scope, Source, TopicName};
use std::{sync::Arc, time::Duration};
use testkit::TestDatabase;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// A store with as many instances of the log as a test starts.
struct Store {
    database: TestDatabase,
    tasks: JoinSet<()>,
}

impl Store {
    async fn new() -> Self {
        Self { database: testkit::database().await, tasks: JoinSet::new() }
    }

    fn log(&mut self) -> Arc<PostgresEventLog> {
        let settings = LogSettings { sweep_every: Duration::from_millis(20), ..LogSettings::default() };
        let (pool, stop) = (self.database.pool.clone(), CancellationToken::new());
        PostgresEventLog::start(pool, settings, Metrics::new(), &mut self.tasks, stop)
    }

    async fn run(&self, sql: &'static str) -> u64 {
        sqlx::query(sql).execute(&self.database.pool).await.expect("executed").rows_affected()
    }

    /// Waits until a whole sweep has begun and ended from now on: it forgets an old topic without events.
    async fn swept(&self) {
        for _ in 0..2 {
            self.run(
                "insert into event_log_topics (application_id, environment, topic, partition, epoch, updated_at) \
                 values ('app_default', 'development', 'swept.now', 0, 'e', now() - interval '90 days')",
            )
            .await;
            let deadline = Instant::now() + PATIENCE;
            let left = "select count(*) from event_log_topics where topic = 'swept.now'";
            while sqlx::query_scalar::<_, i64>(left).fetch_one(&self.database.pool).await.expect("counted")
                > 0
            {
                assert!(Instant::now() < deadline, "nothing is swept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

fn key(topic: &str) -> TopicKey {
    let scope = Scope::new(AppId::from_stored("app_default"), Environment::Development);
    TopicKey::new(&scope, &TopicName::parse(topic).expect("valid"))
}

/// An entry whose texts are all its own, with characters that formats trip over.
fn entry(topic: &str, number: usize) -> Entry {
    Entry {
        key: key(topic),
        id: EventId::from_stored(format!("evt_{number}")),
        source: [Source::Database, Source::Sync, Source::Socket][number % 3],
        kind: format!("kind\\{number}\t\"é").into(),
        payload: RawObject::from_trusted(format!(
            "{{\"n\":{number},\"text\":\"\\\\N €𝄞\\n{}\"}}",
            "x".repeat(number)
        )),
        metadata: RawObject::from_trusted(format!("{{\"timestamp\":{number}}}")),
        identity: Identity::Unique,
    }
}

async fn whole(log: &PostgresEventLog, topic: &str) -> Vec<Arc<StoredEvent>> {
    let head = log.head(&key(topic)).await.expect("head");
    let start = Start::After(Position::new(head.epoch, 0));
    let limit = PageLimit { events: 100_000, bytes: usize::MAX >> 1 };
    log.history(&key(topic), HistoryQuery { start, until: None, limit }).await.expect("history").events
}

fn is_same(event: &StoredEvent, entry: &Entry, position: &Position) -> bool {
    event.key == entry.key
        && event.position == *position
        && event.id == entry.id
        && event.source == entry.source
        && event.kind == entry.kind
        && event.payload == entry.payload
        && event.metadata == entry.metadata
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_and_many_at_once_are_read_back_as_they_were() {
    let mut store = Store::new().await;
    let log = store.log();
    for (topic, count) in [("few.at.once", 3), ("many.at.once", 700)] {
        let entries: Vec<Entry> = (0..count).map(|number| entry(topic, number)).collect();
        let outcomes = log.append(entries.clone()).await.expect("appended");
        let events = whole(&log, topic).await;
        assert_eq!((outcomes.len(), events.len()), (count, count));
        for ((event, entry), outcome) in events.iter().zip(&entries).zip(&outcomes) {
            let position = outcome.position().expect("appended");
            assert!(is_same(event, entry, position), "{event:?} is not {entry:?} at {position:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_time_was_over_begins_anew() {
    let mut store = Store::new().await;
    let log = store.log();
    let mut epochs = Vec::new();
    for count in [1, 100] {
        let outcomes =
            log.append((0..count).map(|n| entry("long.idle", n)).collect()).await.expect("appended");
        let last = outcomes.last().and_then(Outcome::position).expect("appended").clone();
        assert_eq!(last.offset, count as u64, "numbers begin anew");
        epochs.push(last.epoch);
        assert_eq!(whole(&log, "long.idle").await.len(), count);
        // Retention removes the events first, and the topic a day later; the writer still remembers it.
        store.run("delete from event_log").await;
        assert_eq!(store.run("update event_log_topics set updated_at = now() - interval '90 days'").await, 1);
        store.swept().await;
    }
    assert_ne!(epochs[0], epochs[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_generation_begins_another_epoch_and_the_last_one_s_events_are_still_read() {
    let mut store = Store::new().await;
    let log = store.log();
    let reader = log.side_effects("webhooks").await.expect("group");
    log.append(vec![entry("restored.from", 0), entry("restored.from", 1)]).await.expect("appended");
    // As if written before the database was restored elsewhere.
    assert_eq!(store.run("update event_log_topics set epoch = 'past' || substr(epoch, 5)").await, 1);
    let restored = store.log();
    let outcomes = restored.append(vec![entry("restored.from", 2)]).await.expect("appended");
    let position = outcomes[0].position().expect("appended").clone();
    assert_eq!(position.offset, 1);
    assert!(!position.epoch.starts_with("past"));
    assert_eq!(whole(&restored, "restored.from").await.len(), 1, "history is that of the present epoch");

    // A group that is behind reads all of it, however old the past epoch is.
    store.run("update event_log_topics set updated_at = now() - interval '90 days'").await;
    store.swept().await;
    let partition = partition_of(&key("restored.from"), log.partitions());
    let read = reader.read(partition, 10).await.expect("read");
    let places: Vec<(bool, u64)> =
        read.iter().map(|e| (e.event.position.epoch.starts_with("past"), e.event.position.offset)).collect();
    assert_eq!(places, [(true, 1), (true, 2), (false, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_in_the_middle_of_a_stream_leaves_nothing_behind() {
    let mut store = Store::new().await;
    let log = store.log();
    log.append(vec![entry("in.order", 0)]).await.expect("appended");
    store.run("alter table event_log add constraint refused check (event_id <> 'evt_40')").await;
    for many in [50, 600] {
        let refused = log.append((1..many).map(|n| entry("in.order", n)).collect()).await;
        assert!(matches!(refused, Err(LogError::Internal(_))), "{refused:?}");
    }
    let outcomes = log.append((600..1_200).map(|n| entry("in.order", n)).collect()).await.expect("appended");
    assert_eq!(outcomes[0].position().map(|position| position.offset), Some(2));
    assert_eq!(whole(&log, "in.order").await.len(), 601);
}

/// Another process that holds the partition's row and does nothing more: frozen, or cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_frozen_in_the_middle_holds_nobody_up_for_long() {
    let mut store = Store::new().await;
    let log = store.log();
    log.append(vec![entry("order.updated", 1)]).await.expect("appended");
    let other = connect_lazy(&PoolSettings::new(store.database.url.clone())).expect("a URL");
    let mut frozen = other.begin().await.expect("begun");
    let held = sqlx::query("select 1 from event_log_partitions for update").execute(&mut *frozen).await;
    assert!(held.expect("held").rows_affected() > 0);
    log.append(vec![entry("order.updated", 2)])
        .await
        .expect("appended, once the other's transaction was ended");
    assert!(frozen.commit().await.is_err(), "it learns of that");
}

/// An error in the middle of a stream leaves no connection behind that takes an answer for another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_in_a_stream_harms_nothing_that_follows() {
    let mut store = Store::new().await;
    let log = store.log();
    store
        .run(
            "create function full_disk() returns trigger language plpgsql as $$ begin \
                 if new.event_id like '%99' then raise exception 'no room' using errcode = '53100'; end if; \
                 return new; \
             end $$",
        )
        .await;
    store
        .run("create trigger full_disk before insert on event_log for each row execute function full_disk()")
        .await;
    for round in 0..10 {
        let many = |first: usize| (first..first + 600).map(|number| entry("streamed", number)).collect();
        let failed = log.append(many(10_000 * (round + 1))).await;
        assert!(matches!(failed, Err(LogError::Unavailable(_))), "{failed:?}");
        let (one, two) = (entry("streamed", 2 * round), entry("other", 2 * round + 1));
        log.append(vec![one, two]).await.expect("what follows is appended");
    }
    let limit = PageLimit { events: 1_000, bytes: 1 << 20 };
    for topic in ["streamed", "other"] {
        let head = log.head(&key(topic)).await.expect("head");
        let start = Start::After(Position::new(head.epoch, 0));
        let page =
            log.history(&key(topic), HistoryQuery { start, until: None, limit }).await.expect("history");
        assert_eq!(page.events.len(), 10, "{topic}");
    }
}
