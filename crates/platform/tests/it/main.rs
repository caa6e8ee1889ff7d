//! The platform with its event log on Redis: what is appended in either place comes out at one.

use document_store::{DocumentId, DocumentKey, ServiceName};
use event_log::{HistoryQuery, PageLimit, Start, StoredEvent, TopicKey};
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
    until("the relay reads", || async {
        let rows: i64 = sqlx::query_scalar("select count(*) from event_log_groups where name = 'redis'")
            .fetch_one(&database.pool)
            .await
            .expect("a count");
        rows == 64
    })
    .await;
    for number in 0..20 {
        create(if number % 2 == 0 { &first } else { &second }, &format!("doc_{number:02}")).await;
    }
    until("all events come out", || async { created(&second).await.len() >= 20 }).await;
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
async fn without_redis_nothing_waits_for_the_relay() {
    let database = testkit::database().await;
    sqlx::query("insert into event_log_groups (name, partition, sequence) select 'redis', partition, 0 from event_log_partitions")
        .execute(&database.pool)
        .await
        .expect("a group that was left behind");
    let platform = start(&database, None).await;
    until("the group is ended", || async {
        let rows: i64 = sqlx::query_scalar("select count(*) from event_log_groups where name = 'redis'")
            .fetch_one(&database.pool)
            .await
            .expect("a count");
        rows == 0
    })
    .await;
    assert!(platform.log.conditions().is_empty());
    create(&platform, "doc").await;
    assert_eq!(created(&platform).await.len(), 1);
    platform.stop().await;
}
