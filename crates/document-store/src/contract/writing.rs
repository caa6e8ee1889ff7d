//! Commits: atomic, one after the other, none lost.

use super::{Instance, counted, created, deleted, edits::number, key, sized};
use crate::{Change, DocumentKey, StoreError};
use std::collections::HashMap;

/// The document, its revision and its event are there together, whichever instance is asked.
pub async fn writes_document_revision_and_event(first: Instance, second: Instance) {
    let key = key("notes", "one");
    assert_eq!(second.get(&key).await, None);
    let made = first.commit(&key, created(&key)).await;
    assert_eq!((made.revision, made.deleted), (1, false));
    let counted = second.commit(&key, counted(&key, Some(1))).await;
    assert_eq!((counted.revision, counted.data.as_str()), (2, "{\"n\":1}"));
    assert_eq!(first.get(&key).await, Some(counted.clone()));
    let revisions = first.revisions(&key).await;
    let told: Vec<_> =
        revisions.iter().map(|r| (r.revision, r.change, r.diff.as_str(), &*r.undo, r.at)).collect();
    assert_eq!(
        told,
        [
            (2, Change::Updated, "{\"to\":2}", "[2]", counted.updated_at),
            (1, Change::Created, "{\"to\":1}", "[1]", made.updated_at)
        ]
    );
    let (created, updated) =
        (first.topic(&key, Change::Created).await, second.topic(&key, Change::Updated).await);
    assert_eq!((created.len(), updated.len()), (1, 1));
    assert_eq!((updated[0].offset, updated[0].kind.as_str()), (1, "sync.updated"));
    assert_eq!(updated[0].payload["data"]["n"], 1);
    assert_eq!(updated[0].id, revisions[0].event_id.as_str());
}

/// What an edit refuses leaves document, revisions and events as they were.
pub async fn a_refused_edit_changes_nothing(first: Instance, second: Instance) {
    let key = key("notes", "one");
    let refused = first.try_commit(&key, counted(&key, None)).await;
    assert!(matches!(&refused, Err(StoreError::Refused(p)) if p.code == "NOT_FOUND"), "{refused:?}");
    assert_eq!(second.get(&key).await, None);
    let made = second.commit(&key, created(&key)).await;
    let refused = first.try_commit(&key, counted(&key, Some(7))).await;
    assert!(matches!(&refused, Err(StoreError::Refused(p)) if p.message == "1"), "{refused:?}");
    assert_eq!(second.get(&key).await, Some(made));
    assert_eq!(first.revisions(&key).await.len(), 1);
    assert!(first.topic(&key, Change::Updated).await.is_empty());
}

/// 50 writers of 20 increments each over two instances: all count, and events come in order of revisions.
pub async fn all_increments_count(first: Instance, second: Instance) {
    const WRITERS: u64 = 50;
    const EACH: u64 = 20;
    let key = key("counters", "hot");
    first.commit(&key, created(&key)).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let instance = if writer % 2 == 0 { first.clone() } else { second.clone() };
            let key = key.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    instance.commit(&key, counted(&key, None)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let document = second.get(&key).await.expect("there");
    assert_eq!((number(&document), document.revision), (WRITERS * EACH, WRITERS * EACH + 1));
    let events = first.topic(&key, Change::Updated).await;
    let revisions: Vec<u64> =
        events.iter().map(|event| event.payload["revision"].as_u64().unwrap_or(0)).collect();
    assert_eq!(revisions, (2..=WRITERS * EACH + 1).collect::<Vec<_>>());
    let numbers: Vec<u64> =
        events.iter().map(|event| event.payload["data"]["n"].as_u64().unwrap_or(0)).collect();
    assert_eq!(numbers, (1..=WRITERS * EACH).collect::<Vec<_>>());
}

/// Of writers that expect the same revision one succeeds; the others are told.
pub async fn one_of_many_meets_the_expected_revision(first: Instance, second: Instance) {
    let key = key("notes", "one");
    first.commit(&key, created(&key)).await;
    let tries = (0..20).map(|n| {
        let instance = if n % 2 == 0 { first.clone() } else { second.clone() };
        let key = key.clone();
        async move { instance.try_commit(&key, counted(&key, Some(1))).await }
    });
    let outcomes = futures::future::join_all(tries).await;
    let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let told = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(StoreError::Refused(p)) if p.code == "REVISION_CONFLICT" && p.message == "2"))
        .count();
    assert_eq!((succeeded, told), (1, 19), "{outcomes:?}");
}

/// Of writers that create the same id one succeeds, over and over.
pub async fn one_of_many_creates(first: Instance, second: Instance) {
    for round in 0..10 {
        let key = key("notes", &format!("new-{round}"));
        let tries = (0..8).map(|n| {
            let instance = if n % 2 == 0 { first.clone() } else { second.clone() };
            let key = key.clone();
            tokio::spawn(async move { instance.try_commit(&key, created(&key)).await })
        });
        let outcomes = futures::future::join_all(tries).await;
        let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("ends")).collect();
        let refused = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Err(StoreError::Refused(p)) if p.code == "CONFLICT"))
            .count();
        assert_eq!((outcomes.iter().filter(|o| o.is_ok()).count(), refused), (1, 7), "{outcomes:?}");
        assert_eq!(first.revisions(&key).await.len(), 1);
    }
}

/// Writers of many documents of several services, each in an order of its own, do not hinder each other, and every
/// topic's events are those of its documents in order.
pub async fn many_documents_at_once(first: Instance, second: Instance) {
    const DOCUMENTS: u64 = 30;
    let keys: Vec<DocumentKey> =
        (0..DOCUMENTS).map(|n| key(["a", "b", "c"][n as usize % 3], &format!("d{n}"))).collect();
    let writers: Vec<_> = (0..12_u64)
        .map(|writer| {
            let instance = if writer % 2 == 0 { first.clone() } else { second.clone() };
            let keys = keys.clone();
            tokio::spawn(async move {
                for step in 0..DOCUMENTS {
                    let place =
                        if writer % 3 == 0 { DOCUMENTS - 1 - step } else { (step + writer) % DOCUMENTS };
                    let key = &keys[place as usize];
                    let _ = instance.try_commit(key, created(key)).await;
                    instance.commit(key, counted(key, None)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let mut last: HashMap<String, u64> = HashMap::new();
    for service in ["a", "b", "c"] {
        for event in first.topic(&key(service, "any"), Change::Updated).await {
            let revision = event.payload["revision"].as_u64().expect("a revision");
            let id = event.payload["documentId"].as_str().expect("an id").to_owned();
            let before = last.insert(id, revision).unwrap_or(1);
            assert_eq!(revision, before + 1, "revisions come in order");
        }
    }
    for key in &keys {
        let document = second.get(key).await.expect("there");
        assert_eq!((number(&document), document.revision), (12, 13), "{key:?}");
    }
}

/// A deleted document is kept as deleted, and its id goes on where it left off.
pub async fn a_deleted_document_counts_on(first: Instance, second: Instance) {
    let key = key("notes", "one");
    let made = first.commit(&key, created(&key)).await;
    first.commit(&key, counted(&key, None)).await;
    let gone = second.commit(&key, deleted(&key)).await;
    assert_eq!((gone.revision, gone.deleted, number(&gone)), (3, true, 1));
    assert!(second.try_commit(&key, counted(&key, None)).await.is_err());
    assert_eq!(first.get(&key).await, Some(gone));
    let again = second.commit(&key, created(&key)).await;
    assert_eq!((again.revision, again.deleted, number(&again)), (4, false, 0));
    assert!(again.created_at > made.created_at, "it is created anew");
    let revisions: Vec<_> = first.revisions(&key).await.iter().map(|r| (r.revision, r.change)).collect();
    let all = [(4, Change::Created), (3, Change::Deleted), (2, Change::Updated), (1, Change::Created)];
    assert_eq!(revisions, all);
    assert_eq!(first.topic(&key, Change::Deleted).await[0].payload["revision"], 3);
    let offsets: Vec<u64> =
        first.topic(&key, Change::Created).await.iter().map(|event| event.offset).collect();
    assert_eq!(offsets, [1, 2]);
}

/// A megabyte is nothing special.
pub async fn large_documents_are_kept(first: Instance, second: Instance) {
    let key = key("notes", "large");
    let data = format!("{{\"n\":0,\"text\":\"{}\"}}", "x".repeat(1 << 20));
    let made = first.commit(&key, sized(&key, data.clone())).await;
    assert_eq!(made.data.as_str(), data);
    assert_eq!(second.get(&key).await, Some(made));
    let events = second.topic(&key, Change::Created).await;
    assert_eq!(events[0].payload["data"]["text"].as_str().map(str::len), Some(1 << 20));
}

/// Numbers, escapes and the order of members come back as they were written.
pub async fn texts_are_kept_as_written(first: Instance, second: Instance) {
    let key = key("notes", "as-written");
    let data =
        r#"{"z":1.0,"a":1e2,"n":12345678901234567890,"":"\u00e4 ä 😀 \\ \" ' $1 {} %s","b":[null,{}]}"#;
    first.commit(&key, sized(&key, data.to_owned())).await;
    assert_eq!(
        second.get(&key).await.map(|document| document.data.as_str().to_owned()),
        Some(data.to_owned())
    );
}
