//! Edits that go wrong, and connections that end in the middle.

use crate::start;
use document_store::{
    Change, DocumentId, DocumentKey, Durability, Edit, ServiceName, StoreError,
    contract::{counted, created},
};
use shared_types::{AppId, Environment, Scope};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

fn key(application: &str, id: &str) -> DocumentKey {
    DocumentKey {
        scope: Scope::new(AppId::from_stored(application), Environment::Development),
        service: ServiceName::parse("service", "notes").expect("valid"),
        id: DocumentId::parse(id).expect("valid"),
    }
}

/// Edits that fail by themselves, between ones that do not: each fails alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_cannot_be_done_fails_alone() {
    let (_guard, first, _second) = start().await;
    let panics: Edit = Arc::new(|_| panic!("an edit of the test's own"));
    let nowhere = key("app_gone", "one");
    for round in 0..5 {
        let good: Vec<DocumentKey> = (0..4).map(|n| key("app_default", &format!("r{round}-{n}"))).collect();
        let bad = key("app_default", "bad");
        let commit = |key: &DocumentKey, edit: Edit| first.store.commit(key, edit, Durability::Acknowledged);
        let outcomes = futures::future::join_all([
            commit(&good[0], created(&good[0])),
            commit(&bad, panics.clone()),
            commit(&good[1], created(&good[1])),
            commit(&nowhere, created(&nowhere)),
            commit(&good[2], created(&good[2])),
            commit(&good[3], created(&good[3])),
        ])
        .await;
        for (index, outcome) in outcomes.iter().enumerate() {
            match index {
                1 | 3 => assert!(matches!(outcome, Err(StoreError::Internal(_))), "{index}: {outcome:?}"),
                _ => assert!(outcome.is_ok(), "{index}: {outcome:?}"),
            }
        }
    }
}

/// The server ends the writers' connections again and again: what was acknowledged is there, and every revision has
/// its event and its record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_leave_nothing_half_done() {
    let (guard, first, second) = start().await;
    let key = key("app_default", "hot");
    first.store.commit(&key, created(&key), Durability::Acknowledged).await.expect("created");
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let instance = if writer % 2 == 0 { first.clone() } else { second.clone() };
            let (key, acknowledged, stop) = (key.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let outcome = instance.store.commit(&key, counted(&key, None), Durability::Acknowledged);
                    match outcome.await {
                        Ok(_) => drop(acknowledged.fetch_add(1, Ordering::AcqRel)),
                        Err(StoreError::Unavailable(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    let mut ended = 0;
    while ended < 8 {
        let before = acknowledged.load(Ordering::Acquire);
        while acknowledged.load(Ordering::Acquire) < before + 20 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        // Only those that write: a pool without any connection would be another test.
        let done = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and pid <> pg_backend_pid() and backend_xid is not null",
        )
        .execute(&guard.database.pool)
        .await
        .expect("ended");
        ended += done.rows_affected();
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let document = first.store.get(&key).await.expect("read").expect("there");
    let n: u64 =
        document.data.as_str().trim_start_matches("{\"n\":").trim_end_matches('}').parse().expect("n");
    assert!(n >= acknowledged.load(Ordering::Acquire), "nothing acknowledged is lost");
    assert_eq!(document.revision, n + 1);
    let events = (second.events)(key.scope.clone(), Change::Updated.topic(&key.service)).await;
    let revisions: Vec<u64> = events.iter().filter_map(|event| event.payload["revision"].as_u64()).collect();
    assert_eq!(revisions, (2..=n + 1).collect::<Vec<_>>(), "each revision has its event, in order");
}

/// A server whose disk is full takes no new connections, so that those that are there must stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_server_cost_no_connection() {
    let (guard, first, _second) = start().await;
    let pool = &guard.database.pool;
    let (good, bad) = (key("app_default", "good"), key("app_other", "bad"));
    let commit = |key: &DocumentKey, edit: Edit| first.store.commit(key, edit, Durability::Acknowledged);
    commit(&good, created(&good)).await.expect("created");
    sqlx::raw_sql(
        "create function full_disk() returns trigger language plpgsql as $$ begin \
             if new.application_id = 'app_other' then raise exception 'no room' using errcode = '53100'; end if; \
             return new; \
         end $$; \
         create trigger full_disk before insert on sync_documents for each row execute function full_disk()",
    )
    .execute(pool)
    .await
    .expect("prepared");
    let connections = async || -> Vec<i32> {
        let of_this = "select pid from pg_stat_activity where datname = current_database()";
        sqlx::query_scalar(of_this).fetch_all(pool).await.expect("connections")
    };
    let before = connections().await;
    for _ in 0..30 {
        assert!(matches!(commit(&bad, created(&bad)).await, Err(StoreError::Unavailable(_))));
        commit(&good, counted(&good, None)).await.expect("others go on");
    }
    let after = connections().await;
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?}, after 30 failures {after:?}");
    let document = first.store.get(&good).await.expect("read").expect("there");
    assert_eq!(document.revision, 31);
}
