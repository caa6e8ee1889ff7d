//! Documents that are not flushed yet, and those who have to flush them.

use super::{Process, TTL, archive::Door, archived, flushed, key, redis_key, server, until};
use document_store::{
    DocumentQuery, DocumentStore as _, Durability, Edit, RevisionQuery, ServiceKey, StoreError,
    contract::{counted, created, sized},
};
use shared_types::AppId;
use std::{sync::Arc, time::Duration};
use testkit::Persistence;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_flushed_at_once_and_stays_for_its_time() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    let document = process.commit(&one, counted(&one, None)).await.expect("counted");
    flushed(&server, &database, &document).await;
    let ttl: i64 = server.command(&["PTTL", &redis_key("data", &one)])[0].parse().expect("a number");
    assert!(ttl > 0 && ttl <= TTL.as_millis() as i64, "{ttl}");
    assert_eq!(process.metrics.document_flush_failures.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_encoding_is_that_of_the_server() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    let kind = server.command(&["TYPE", &redis_key("data", &one)]).remove(0);
    match std::env::var("REALTIME_TEST_REDISJSON") {
        Ok(_) => {
            assert_eq!(kind, "ReJSON-RL");
            let seen = server.command(&["JSON.GET", &redis_key("data", &one), "$.data.n"]);
            assert_eq!(seen, ["[0]"], "whoever looks at the key sees the document");
            // One that was written before the module was there is read, and written anew.
            let old = key("old");
            let made = process.commit(&old, created(&old)).await.expect("created");
            flushed(&server, &database, &made).await;
            let head = server.command(&["JSON.GET", &redis_key("data", &old), ".head"]).remove(0);
            let head = head.trim_matches('"');
            server.command(&["DEL", &redis_key("data", &old)]);
            server.command(&["HSET", &redis_key("data", &old), "h", head, "d", "{\"n\":0}"]);
            assert_eq!(process.get(&old).await, Some(made));
            let counted = process.commit(&old, counted(&old, None)).await.expect("counted");
            assert_eq!(process.get(&old).await, Some(counted));
            assert_eq!(server.command(&["TYPE", &redis_key("data", &old)]), ["ReJSON-RL"]);
        }
        Err(_) => assert_eq!(kind, "hash"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unflushed_document_outlives_its_time() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let (door, short) = (Door::closed(&database), Duration::from_secs(1));
    let process = Process::start_with(&server.url(), &database, door.clone(), short);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    let document = process.commit(&one, counted(&one, None)).await.expect("counted");
    until("a flush fails", async || process.metrics.document_flush_failures.get() > 0).await;
    assert_eq!(server.command(&["PTTL", &redis_key("data", &one)]), ["-1"]);
    assert_eq!(process.get(&one).await.as_ref(), Some(&document), "reading gives it no time to live either");
    assert_eq!(server.command(&["PTTL", &redis_key("data", &one)]), ["-1"]);
    assert_eq!(archived(&database, &one).await, None);
    until("it is measured", async || process.metrics.documents_unflushed.get() == 1).await;
    door.open();
    flushed(&server, &database, &document).await;
    until("its time is over", async || server.command(&["EXISTS", &redis_key("data", &one)]) == ["0"]).await;
    assert_eq!(process.get(&one).await.as_ref(), Some(&document), "it is loaded again");
    let again = process.commit(&one, counted(&one, Some(2))).await.expect("counted");
    assert_eq!(again.revision, 3);
    until("nothing waits", async || process.metrics.documents_unflushed.get() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_left_is_flushed_by_another() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let killed = Process::start_with(&server.url(), &database, Door::closed(&database), TTL);
    let other = Process::start(&server.url(), &database);
    let mut documents = Vec::new();
    for number in 0..100 {
        let key = key(&format!("d{number}"));
        killed.commit(&key, created(&key)).await.expect("created");
        documents.push(killed.commit(&key, counted(&key, None)).await.expect("counted"));
    }
    killed.kill();
    for document in &documents {
        flushed(&server, &database, document).await;
    }
    assert_eq!(other.metrics.documents_flushed.get(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_flushes_what_there_is() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let door = Door::closed(&database);
    let process = Process::start_with(&server.url(), &database, door.clone(), TTL);
    let one = key("one");
    let document = process.commit(&one, created(&one)).await.expect("created");
    until("a flush fails", async || process.metrics.document_flush_failures.get() > 0).await;
    door.open();
    process.stop().await;
    assert_eq!(archived(&database, &one).await, Some(document));
    assert_eq!(server.command(&["EXISTS", &redis_key("unflushed", &one)]), ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_an_error_to_who_wants_more_and_is_caught_up_with() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    process.commit_durably(&one, created(&one)).await.expect("created");
    assert_eq!(archived(&database, &one).await.map(|document| document.revision), Some(1));
    let name: String =
        sqlx::query_scalar("select current_database()").fetch_one(&database.pool).await.expect("a name");
    let read_only = async |on: bool| {
        let mut admin = database.pool.acquire().await.expect("a connection");
        for sql in [
            format!(
                "alter database \"{name}\" set default_transaction_read_only = {}",
                if on { "on" } else { "off" }
            ),
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() \
             and pid <> pg_backend_pid()"
                .to_owned(),
        ] {
            let sql = format!("set transaction_read_only = off; {sql}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *admin).await.expect("altered");
        }
        drop(admin.detach());
    };
    read_only(true).await;
    until("the database takes nothing", async || {
        sqlx::query("delete from sync_documents where false").execute(&database.pool).await.is_err()
    })
    .await;
    let refused = process.commit_durably(&one, counted(&one, None)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_) | StoreError::Internal(_))), "{refused:?}");
    let acknowledged = process.commit(&one, counted(&one, None)).await.expect("in Redis");
    assert_eq!(archived(&database, &one).await.map(|document| document.revision), Some(1));
    assert!(process.metrics.document_flush_failures.get() > 0);
    read_only(false).await;
    flushed(&server, &database, &acknowledged).await;
    let committed = process.commit_durably(&one, counted(&one, None)).await.expect("committed");
    assert_eq!(archived(&database, &one).await, Some(committed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_revision_is_remembered_whoever_flushes_it() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let processes = [(); 2].map(|()| Arc::new(Process::start(&server.url(), &database)));
    let hot = key("hot");
    processes[0].commit(&hot, created(&hot)).await.expect("created");
    let writers = (0..50).map(|writer| {
        let (process, hot) = (processes[writer % 2].clone(), hot.clone());
        tokio::spawn(async move {
            for _ in 0..4 {
                process.commit(&hot, counted(&hot, None)).await.expect("counted");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("the writer ends");
    }
    let document = processes[0].get(&hot).await.expect("there");
    assert_eq!((document.revision, document.data.as_str()), (201, "{\"n\":200}"));
    let query = RevisionQuery { before: None, limit: 500, bytes: 1 << 30 };
    let page = processes[1].store.revisions(&hot, query).await.expect("read");
    let kept: Vec<u64> = page.revisions.iter().map(|revision| revision.revision).collect();
    assert_eq!(kept, (102..=201).rev().collect::<Vec<_>>());
    assert_eq!(archived(&database, &hot).await, Some(document));
    assert_eq!(processes.iter().map(|p| p.metrics.document_flush_refusals.get()).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_cannot_be_done_fails_alone() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let panics: Edit = Arc::new(|_| panic!("an edit of the test's own"));
    let mut nowhere = key("one");
    nowhere.scope = shared_types::Scope::new(AppId::from_stored("app_gone"), nowhere.scope.environment());
    let (good, bad) = (key("good"), key("bad"));
    let (panicked, homeless, made) = tokio::join!(
        process.commit(&bad, panics),
        process.commit(&nowhere, created(&nowhere)),
        process.commit(&good, created(&good)),
    );
    assert!(matches!(panicked, Err(StoreError::Internal(_))), "{panicked:?}");
    assert!(matches!(homeless, Err(StoreError::Internal(_))), "{homeless:?}");
    assert_eq!(process.get(&nowhere).await, None);
    flushed(&server, &database, &made.expect("created")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_a_tenant_that_is_gone_are_forgotten() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let door = Door::closed(&database);
    let process = Process::start_with(&server.url(), &database, door.clone(), TTL);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    sqlx::query("delete from environments where application_id = 'app_default'")
        .execute(&database.pool)
        .await
        .expect("gone");
    door.open();
    until("it is forgotten", async || {
        server.command(&["EXISTS", &redis_key("data", &one), &redis_key("unflushed", &one)]) == ["0"]
    })
    .await;
    let rows: i64 = sqlx::query_scalar("select count(*) from sync_document_revisions")
        .fetch_one(&database.pool)
        .await
        .expect("a count");
    assert_eq!(rows, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cold_documents_are_loaded_and_written() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Arc::new(Process::start(&server.url(), &database));
    let keys: Vec<_> = (0..300).map(|number| key(&format!("d{number}"))).collect();
    let text = "x".repeat(100_000);
    for key in &keys {
        let edit = sized(key, format!("{{\"n\":0,\"text\":\"{text}\"}}"));
        process.commit(key, edit).await.expect("created");
    }
    let last = process.get(&keys[299]).await.expect("there");
    flushed(&server, &database, &last).await;
    until("all are flushed", async || process.metrics.documents_unflushed.get() == 0).await;
    server.command(&["FLUSHALL"]);
    let writers = keys.iter().map(|key| {
        let (process, key) = (process.clone(), key.clone());
        tokio::spawn(async move { process.commit(&key, counted(&key, Some(1))).await.expect("counted") })
    });
    for writer in writers.collect::<Vec<_>>() {
        assert_eq!(writer.await.expect("the writer ends").revision, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_while_the_server_is_away_is_told_within_seconds() {
    let (mut server, database) = (server(Persistence::Always), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    let document = process.commit(&one, created(&one)).await.expect("created");
    let service = ServiceKey { scope: one.scope.clone(), service: one.service.clone() };
    let query = DocumentQuery { after: None, prefix: None, limit: 10, bytes: 1 << 20, now_ms: 0 };
    let newest = RevisionQuery { before: None, limit: 10, bytes: 1 << 20 };
    server.kill();
    // Each tries several times, none of which is waited for longer than all together may take.
    let limit = Duration::from_secs(11);
    let answers = tokio::time::timeout(limit, async {
        tokio::join!(
            process.store.get(&one),
            process.store.list(&service, query),
            process.store.revisions(&one, newest),
            process.store.commit(&one, counted(&one, None), Durability::Acknowledged),
        )
    });
    let (got, listed, revisions, written) = answers.await.expect("all are answered");
    assert!(matches!(got, Err(StoreError::Unavailable(_))), "{got:?}");
    assert!(matches!(listed, Err(StoreError::Unavailable(_))), "{listed:?}");
    assert!(matches!(revisions, Err(StoreError::Unavailable(_))), "{revisions:?}");
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    server.restart();
    assert_eq!(process.get(&one).await, Some(document));
}
