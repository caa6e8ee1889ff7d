//! A Redis that has lost something, and a database that is ahead of it.

use super::{Process, TTL, archive::Door, archived, flushed, key, redis_key, server, until};
use crate::trouble::copy;
use document_store::contract::{counted, created, deleted};
use testkit::Persistence;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_set_back_to_an_older_file_loses_no_committed_document() {
    let (mut server, database) = (server(Persistence::Always), testkit::database().await);
    let kept = tempfile::tempdir().expect("a directory");
    let process = Process::start(&server.url(), &database);
    let (one, two, gone) = (key("one"), key("two"), key("gone"));
    for key in [&one, &two, &gone] {
        process.commit_durably(key, created(key)).await.expect("created");
    }
    server.kill();
    copy(&server.directory().join("appendonlydir"), kept.path());
    server.restart();
    let counted_one = process.commit_durably(&one, counted(&one, Some(1))).await.expect("counted");
    process.commit_durably(&gone, deleted(&gone)).await.expect("deleted");
    flushed(&server, &database, &counted_one).await;
    let epoch = (process.instance().events)(one.scope.clone(), super::updated(&one)).await.len();
    assert_eq!(epoch, 1);
    process.stop().await;
    server.kill();
    copy(kept.path(), &server.directory().join("appendonlydir"));
    server.restart();
    let process = Process::start(&server.url(), &database);
    assert_eq!(process.get(&one).await, Some(counted_one), "the higher revision holds");
    assert!(process.get(&gone).await.is_some_and(|document| document.deleted && document.revision == 2));
    let next = process.commit(&one, counted(&one, Some(2))).await.expect("counted");
    let other = process.commit(&two, counted(&two, Some(1))).await.expect("counted");
    for document in [next, other] {
        flushed(&server, &database, &document).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_flushed_before_a_new_generation_is_flushed_after_it() {
    let (mut server, database) = (server(Persistence::EverySecond), testkit::database().await);
    let door = Door::closed(&database);
    let process = Process::start_with(&server.url(), &database, door.clone(), TTL);
    let (one, two) = (key("one"), key("two"));
    process.commit(&one, created(&one)).await.expect("created");
    let document = process.commit(&one, counted(&one, None)).await.expect("counted");
    process.commit(&two, created(&two)).await.expect("created");
    // All of it is on disk, but after this start nobody can know that.
    server.command(&["BGREWRITEAOF"]);
    until("it is on disk", async || {
        let info = server.command(&["INFO", "persistence"]).join("\n");
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrites:1")
    })
    .await;
    server.kill();
    // In the database somebody has a newer one of these.
    sqlx::query(
        "insert into sync_documents values ('app_default', 'development', 'notes', 'two', 5, '{\"n\":7}', false, \
         now(), now(), null)",
    )
    .execute(&database.pool)
    .await
    .expect("inserted");
    server.restart();
    door.open();
    flushed(&server, &database, &document).await;
    assert_eq!(process.get(&one).await, Some(document));
    let two_now = process.get(&two).await.expect("there");
    assert_eq!((two_now.revision, two_now.data.as_str()), (5, "{\"n\":7}"));
    assert_eq!(archived(&database, &two).await, Some(two_now));
    until("nothing waits", async || {
        server.command(&["EXISTS", &redis_key("unflushed", &one), &redis_key("unflushed", &two)]) == ["0"]
    })
    .await;
    let next = process.commit(&two, counted(&two, Some(5))).await.expect("counted");
    assert_eq!((next.revision, next.data.as_str()), (6, "{\"n\":8}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_behind_the_database_is_loaded_again() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    let made = process.commit(&one, created(&one)).await.expect("created");
    flushed(&server, &database, &made).await;
    sqlx::query("update sync_documents set revision = 9, data = '{\"n\":9}' where id = 'one'")
        .execute(&database.pool)
        .await
        .expect("written behind the store's back");
    let refused = process.commit_durably(&one, counted(&one, None)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(process.metrics.document_flush_refusals.get(), 1);
    until("it is loaded again", async || {
        process.get(&one).await.is_some_and(|document| document.data.as_str() == "{\"n\":9}")
    })
    .await;
    let next = process.commit_durably(&one, counted(&one, Some(9))).await.expect("counted");
    assert_eq!((next.revision, next.data.as_str()), (10, "{\"n\":10}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_server_is_filled_from_the_database() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    let document = process.commit(&one, counted(&one, None)).await.expect("counted");
    flushed(&server, &database, &document).await;
    server.command(&["FLUSHALL"]);
    assert_eq!(process.get(&one).await.as_ref(), Some(&document));
    let next = process.commit(&one, counted(&one, Some(2))).await.expect("counted");
    flushed(&server, &database, &next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_over_killed_connections_and_restarts() {
    let (mut server, database) = (server(Persistence::Always), testkit::database().await);
    let process = Process::start(&server.url(), &database);
    let one = key("one");
    process.commit(&one, created(&one)).await.expect("created");
    for number in 1..=60_u64 {
        match number % 20 {
            5 => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"])),
            10 => drop(server.command(&["SCRIPT", "FLUSH"])),
            15 => {
                server.kill();
                server.restart();
            }
            _ => {}
        }
        let document = process.commit(&one, counted(&one, Some(number))).await.expect("counted");
        assert_eq!(document.data.as_str(), format!("{{\"n\":{number}}}"));
    }
    let document = process.get(&one).await.expect("there");
    let events = (process.instance().events)(one.scope.clone(), super::updated(&one)).await;
    let revisions: Vec<u64> = events.iter().filter_map(|event| event.payload["revision"].as_u64()).collect();
    assert_eq!(revisions, (2..=61).collect::<Vec<_>>(), "each revision has its event, in order");
    flushed(&server, &database, &document).await;
}
