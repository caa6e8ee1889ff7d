//! Two batches of one partition under way, while connections end and the server restarts.

use super::{Process, archived, events, key, redis_key, server, until, updated};
use document_store::contract::{counted, created};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use testkit::Persistence;

const DOCUMENTS: usize = 16;
const WRITERS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_of_both_halves_counts_once() {
    let (mut server, database) = (server(Persistence::Always), testkit::database().await);
    let process = Arc::new(Process::start(&server.url(), &database));
    let keys: Arc<[_]> = (0..DOCUMENTS).map(|number| key(&format!("d{number}"))).collect();
    for key in &*keys {
        process.commit(key, created(key)).await.expect("created");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicU64]> = (0..DOCUMENTS).map(|_| AtomicU64::new(0)).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (process, keys) = (process.clone(), keys.clone());
            let (stop, counts) = (stop.clone(), counts.clone());
            tokio::spawn(async move {
                let mut number = writer;
                while !stop.load(Ordering::Acquire) {
                    let place = number % DOCUMENTS;
                    process.commit(&keys[place], counted(&keys[place], None)).await.expect("counted");
                    counts[place].fetch_add(1, Ordering::AcqRel);
                    number += 7;
                }
            })
        })
        .collect();
    let all = || counts.iter().map(|count| count.load(Ordering::Acquire)).sum::<u64>();
    let further = async |by: u64| {
        let before = all();
        while all() < before + by {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    for trouble in 0..12 {
        further(300).await;
        match trouble % 4 {
            3 => {
                server.kill();
                server.restart();
            }
            _ => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"])),
        }
    }
    further(300).await;
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await.expect("the writer ends");
    }

    let second = server.command(&["KEYS", "*:writer:*e"]).concat();
    assert!(second.contains(":writer:"), "no half was ever written");
    let mut revisions = BTreeMap::<String, Vec<u64>>::new();
    let events = events(process.log.clone(), keys[0].scope.clone(), updated(&keys[0])).await;
    for event in &events {
        let id = event.payload["documentId"].as_str().expect("an id").to_owned();
        revisions.entry(id).or_default().push(event.payload["revision"].as_u64().expect("a revision"));
    }
    let offsets: Vec<u64> = events.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, (1..=all()).collect::<Vec<_>>());
    for (key, count) in keys.iter().zip(&*counts) {
        let count = count.load(Ordering::Acquire);
        let document = process.get(key).await.expect("there");
        assert_eq!(document.data.as_str(), format!("{{\"n\":{count}}}"));
        let expected: Vec<u64> = (2..=count + 1).collect();
        assert_eq!(revisions[key.id.as_str()], expected, "each revision has its event, in order");
        until("the document is flushed", async || {
            archived(&database, key).await.as_ref() == Some(&document)
                && server.command(&["EXISTS", &redis_key("unflushed", key)]) == ["0"]
        })
        .await;
    }
}
