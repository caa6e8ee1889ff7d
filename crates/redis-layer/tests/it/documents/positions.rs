//! Writers bring events with the positions that they expect; what is written has those that are true.

use super::{Process, events, key, server, updated};
use document_store::contract::{counted, created};
use std::sync::Arc;
use testkit::Persistence;

const DOCUMENTS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_have_no_gap_where_batches_are_taken_in_part() {
    let (server, database) = (server(Persistence::Nothing), testkit::database().await);
    let processes = [(); 2].map(|()| Arc::new(Process::start(&server.url(), &database)));
    let keys: Vec<_> = (0..DOCUMENTS).map(|number| key(&format!("d{number}"))).collect();
    for key in &keys {
        processes[0].commit(key, created(key)).await.expect("created");
    }
    for turn in 0..10 {
        // The first remembers half of the documents, and the topic, as they no longer are.
        for key in keys.iter().step_by(2) {
            processes[1].commit(key, counted(key, None)).await.expect("counted");
        }
        let writers = keys.iter().map(|key| {
            let (process, key) = (processes[0].clone(), key.clone());
            tokio::spawn(async move { process.commit(&key, counted(&key, None)).await.expect("counted") })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("the writer ends");
        }
        assert_eq!(processes[0].get(&keys[0]).await.expect("there").revision, 3 + 2 * turn);
    }
    let events = events(processes[1].log.clone(), keys[0].scope.clone(), updated(&keys[0])).await;
    let offsets: Vec<u64> = events.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, (1..=10 * DOCUMENTS as u64 * 3 / 2).collect::<Vec<_>>());
    assert!(processes[0].metrics.document_conflicts.get() > 0, "no batch was taken in part");
}
