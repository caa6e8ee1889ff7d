//! The platform with Redis, without, and from one to the other.

use document_store::{DocumentId, DocumentKey, ServiceName};
use event_log::{HistoryQuery, PageLimit, Reach, Start, StoredEvent, TopicKey};
use platform::Platform;
use shared_config::{Config, Vars};
use shared_types::{AppId, Environment, Position, RawObject, Scope, TopicName};
use std::{future::Future, sync::Arc, time::Duration};
use sync::{NewDocument, WriteOptions};
use testkit::{LocalRedis, Persistence, TestDatabase};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

async fn start(database: &TestDatabase, redis: Option<&LocalRedis>) -> Arc<Platform> {
    platform::install_crypto();
    let mut vars = Vars::new();
    vars.insert("DATABASE_URL".to_owned(), database.url.clone());
    if let Some(redis) = redis {
        vars.insert("REDIS_URL".to_owned(), redis.url());
    }
    Platform::start(Config::from_vars(&vars).expect("a configuration"), "test").await.expect("a platform")
}

fn scope() -> Scope {
    Scope::new(AppId::from_stored("app_default"), Environment::Development)
}

fn document(id: &str) -> DocumentKey {
    DocumentKey {
        scope: scope(),
        service: ServiceName::from_stored("notes"),
        id: DocumentId::from_stored(id),
    }
}

async fn create(platform: &Platform, id: &str) {
    let data = RawObject::from_trusted("{\"text\":\"hello\"}");
    let new = NewDocument { data, expires_at: None, event_id: None };
    platform.documents.create(&document(id), new, WriteOptions::default()).await.expect("created");
}

async fn created(platform: &Platform) -> Vec<Arc<StoredEvent>> {
    let key = TopicKey { scope: scope(), topic: TopicName::parse("sync.notes.created").expect("valid") };
    let head = platform.log.head(&key).await.expect("head");
    let start = Start::After(Position::new(head.epoch, 0));
    let limit = PageLimit { events: 1_000, bytes: 1 << 20 };
    platform.log.history(&key, HistoryQuery { start, until: None, limit }).await.expect("history").events
}

async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what} within {PATIENCE:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_events_come_out_on_redis_once_and_in_order() {
    let (database, redis) = (testkit::database().await, LocalRedis::start(Persistence::Always));
    let (first, second) = (start(&database, Some(&redis)).await, start(&database, Some(&redis)).await);
    for number in 0..20 {
        create(if number % 2 == 0 { &first } else { &second }, &format!("doc_{number:02}")).await;
    }
    let events = created(&first).await;
    let ids: Vec<String> = (0..20).map(|number| format!("\"doc_{number:02}\"")).collect();
    assert_eq!(events.len(), 20, "each once");
    for (event, id) in events.iter().zip(ids) {
        assert!(event.payload.as_str().contains(&id), "{} in order", event.payload.as_str());
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_lacks_is_said() {
    let (database, mut redis) = (testkit::database().await, LocalRedis::start(Persistence::EverySecond));
    let platform = start(&database, Some(&redis)).await;
    let said = |platform: &Platform| platform.log.conditions().remove(0);
    until("redis answers", || async { said(&platform).ok }).await;
    let message = said(&platform).message.expect("a warning");
    assert!(message.contains("appendfsync is everysec"), "{message}");
    redis.kill();
    until("it is said that redis is away", || async { !said(&platform).ok }).await;
    redis.restart();
    until("it is back", || async { said(&platform).ok }).await;
    redis.command(&["CONFIG", "SET", "appendfsync", "always"]);
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    until("nothing is lacking", || async { said(&platform).message.is_none() }).await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_follow_from_one_mode_to_the_other() {
    let (database, redis) = (testkit::database().await, LocalRedis::start(Persistence::Always));
    let key = document("one");
    let merge = async |platform: &Platform, data: &str| {
        let data = RawObject::from_trusted(data);
        platform.documents.merge(&key, data, WriteOptions::default()).await.expect("merged")
    };
    let with = start(&database, Some(&redis)).await;
    create(&with, "one").await;
    assert_eq!(merge(&with, "{\"a\":1}").await.revision, 2);
    let epoch = updated_epoch(&with).await;
    with.stop().await;

    let without = start(&database, None).await;
    let found = without.documents.get(&key).await.expect("flushed when the process stopped");
    assert_eq!((found.revision, found.data.as_str()), (2, "{\"text\":\"hello\",\"a\":1}"));
    assert!(without.log.conditions().is_empty());
    assert_eq!(merge(&without, "{\"b\":2}").await.revision, 3);
    without.stop().await;

    // Redis still holds the second revision.
    let with = start(&database, Some(&redis)).await;
    let found = with.documents.get(&key).await.expect("there");
    assert_eq!((found.revision, found.data.as_str()), (3, "{\"text\":\"hello\",\"a\":1,\"b\":2}"));
    assert_eq!(merge(&with, "{\"c\":3}").await.revision, 4);
    assert_ne!(updated_epoch(&with).await, epoch, "positions from before do not count");
    with.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_from_before_redis_counts_after_it() {
    let (database, redis) = (testkit::database().await, LocalRedis::start(Persistence::Always));
    let key = |topic: &str| TopicKey { scope: scope(), topic: TopicName::parse(topic).expect("valid") };
    let (busy, quiet) = (key("sync.notes.created"), key("order.updated"));
    let heads = async |platform: &Platform| {
        let head = async |key: &TopicKey| platform.log.head(key).await.expect("head");
        [head(&busy).await, head(&quiet).await]
    };
    let reach = async |platform: &Platform, key: &TopicKey, position: Position| {
        let query = HistoryQuery {
            start: Start::After(position),
            until: None,
            limit: PageLimit { events: 10, bytes: 1 << 20 },
        };
        platform.log.history(key, query).await.expect("history").reach
    };

    let without = start(&database, None).await;
    create(&without, "before").await;
    let [created, nothing] = heads(&without).await;
    assert_eq!(created.offset, 1);
    without.stop().await;

    // Nothing was elsewhere: positions hold over a restart.
    let without = start(&database, None).await;
    assert_eq!(heads(&without).await, [created.clone(), nothing.clone()]);
    without.stop().await;

    let with = start(&database, Some(&redis)).await;
    create(&with, "meanwhile").await;
    with.stop().await;

    let without = start(&database, None).await;
    let beside = start(&database, None).await;
    assert_eq!(reach(&without, &busy, created.clone()).await, Reach::OtherEpoch, "one event was missed");
    assert_eq!(
        reach(&without, &quiet, nothing.clone()).await,
        Reach::OtherEpoch,
        "some may have been missed"
    );
    create(&without, "after").await;
    let now = heads(&without).await;
    assert_eq!(now[0].offset, 1, "numbers begin anew");
    assert_eq!(heads(&beside).await, now, "all processes agree");
    without.stop().await;
    beside.stop().await;
}

async fn updated_epoch(platform: &Platform) -> String {
    let key = TopicKey { scope: scope(), topic: TopicName::parse("sync.notes.updated").expect("valid") };
    platform.log.head(&key).await.expect("head").epoch.to_string()
}
