//! Lists, revisions, what is due, and who sees what.

use super::{Instance, counted, created, deleted, expiring, key, scope, sized};
use crate::{Change, DocumentId, DocumentKey, DocumentQuery, KEPT_REVISIONS, RevisionQuery};
use std::time::{Duration, Instant};

const NOW: i64 = 1_700_000_500_000;
/// What a flush has read is written by then.
const FLUSHED: Duration = Duration::from_secs(10);

fn query(limit: usize) -> DocumentQuery {
    DocumentQuery { after: None, prefix: None, limit, bytes: 1 << 20, now_ms: NOW }
}

/// Pages hold what is alive, by id in byte order, bounded by number and bytes, and say whether there is more.
pub async fn lists_page(first: Instance, second: Instance) {
    let place = key("notes", "any");
    assert_eq!(second.list(&place, query(10)).await, (vec![], false));
    for id in ["b", "a", "B", "a_1", "a-1", "ab"] {
        let key = key("notes", id);
        first.commit(&key, created(&key)).await;
    }
    let (gone, late, later) = (key("notes", "gone"), key("notes", "late"), key("notes", "later"));
    first.commit(&gone, created(&gone)).await;
    first.commit(&gone, deleted(&gone)).await;
    first.commit(&late, expiring(&late, NOW)).await;
    first.commit(&later, expiring(&later, NOW + 1)).await;
    let all = ["B", "a", "a-1", "a_1", "ab", "b", "later"].map(str::to_owned);
    assert_eq!(second.list(&place, query(10)).await, (all.to_vec(), false));
    assert_eq!(second.list(&place, query(7)).await, (all.to_vec(), false));
    assert_eq!(second.list(&place, query(3)).await, (all[..3].to_vec(), true));
    let after = Some(DocumentId::parse("a-1").expect("valid"));
    assert_eq!(second.list(&place, DocumentQuery { after, ..query(2) }).await, (all[3..5].to_vec(), true));
    let with = |prefix: &str| DocumentQuery { prefix: Some(prefix.to_owned()), ..query(10) };
    assert_eq!(second.list(&place, with("a")).await, (all[1..5].to_vec(), false));
    assert_eq!(second.list(&place, with("a_")).await, (vec!["a_1".to_owned()], false));
    assert_eq!(second.list(&place, with("%")).await, (vec![], false));
    for id in ["c1", "c2", "c3"] {
        let key = key("notes", id);
        first.commit(&key, sized(&key, format!("{{\"n\":0,\"x\":\"{}\"}}", "x".repeat(1_000)))).await;
    }
    let bounded = |bytes| DocumentQuery { bytes, ..with("c") };
    assert_eq!(second.list(&place, bounded(2_500)).await, (vec!["c1".to_owned(), "c2".to_owned()], true));
    assert_eq!(second.list(&place, bounded(1)).await, (vec!["c1".to_owned()], true), "at least one");
}

/// Revisions come newest first, in pages.
pub async fn revisions_page(first: Instance, second: Instance) {
    let key = key("notes", "one");
    first.commit(&key, created(&key)).await;
    for _ in 0..4 {
        first.commit(&key, counted(&key, None)).await;
    }
    let page = |before, limit, bytes| {
        let (second, key) = (second.clone(), key.clone());
        async move {
            let page =
                second.store.revisions(&key, RevisionQuery { before, limit, bytes }).await.expect("read");
            (page.revisions.iter().map(|revision| revision.revision).collect::<Vec<_>>(), page.more)
        }
    };
    assert_eq!(page(None, 10, 1 << 20).await, (vec![5, 4, 3, 2, 1], false));
    assert_eq!(page(None, 2, 1 << 20).await, (vec![5, 4], true));
    assert_eq!(page(Some(3), 2, 1 << 20).await, (vec![2, 1], false));
    assert_eq!(page(None, 10, 1).await, (vec![5], true), "at least one");
    assert_eq!(page(Some(1), 10, 1 << 20).await, (vec![], false));
    let other = DocumentKey { id: DocumentId::parse("two").expect("valid"), ..key.clone() };
    assert!(second.revisions(&other).await.is_empty());
}

/// Of more revisions than are kept the last ones are answered; those that are too old are forgotten, also those that a
/// flush which was under way has written behind the first call.
pub async fn only_the_last_revisions_are_kept(first: Instance, second: Instance) {
    let key = key("notes", "one");
    first.commit(&key, created(&key)).await;
    for _ in 0..KEPT_REVISIONS + 40 {
        first.commit(&key, counted(&key, None)).await;
    }
    let kept: Vec<u64> = second.revisions(&key).await.iter().map(|revision| revision.revision).collect();
    let newest = KEPT_REVISIONS + 41;
    assert_eq!(kept, (newest - KEPT_REVISIONS + 1..=newest).rev().collect::<Vec<_>>());
    let page = RevisionQuery { before: Some(newest - KEPT_REVISIONS + 1), limit: 10, bytes: 1 << 20 };
    assert!(second.store.revisions(&key, page).await.expect("read").revisions.is_empty());
    let at = second.get(&key).await.expect("there").updated_at;
    let deadline = Instant::now() + FLUSHED;
    loop {
        while first.store.forget_revisions(at - 1).await.expect("forgotten") > 0 {}
        let kept: Vec<u64> = second.revisions(&key).await.iter().map(|revision| revision.revision).collect();
        if kept == [newest, newest - 1] {
            break;
        }
        assert!(Instant::now() < deadline, "{kept:?} are kept");
    }
    assert_eq!(second.get(&key).await.expect("there").revision, newest);
}

/// Documents whose time has come are found until they are deleted or given more time.
pub async fn due_documents_are_found(first: Instance, second: Instance) {
    let keys = ["a", "b", "c", "d"].map(|id| key("notes", id));
    for (key, at) in keys.iter().zip([NOW, NOW - 10, NOW + 1, NOW - 5]) {
        first.commit(key, expiring(key, at)).await;
    }
    until_due(&second, 10, &[&keys[1], &keys[3], &keys[0]]).await;
    until_due(&second, 1, &[&keys[1]]).await;
    second.commit(&keys[1], deleted(&keys[1])).await;
    second.commit(&keys[3], expiring(&keys[3], NOW + 5)).await;
    until_due(&first, 10, &[&keys[0]]).await;
}

/// Waits until just these are due.
async fn until_due(instance: &Instance, limit: usize, expected: &[&DocumentKey]) {
    let deadline = Instant::now() + FLUSHED;
    loop {
        let due = instance.store.due(NOW, limit).await.expect("read");
        if due.iter().eq(expected.iter().copied()) {
            return;
        }
        assert!(Instant::now() < deadline, "{due:?} are due, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same service and id in another scope, or the same id in another service, is another document.
pub async fn scopes_and_services_are_apart(first: Instance, second: Instance) {
    let ours = key("notes", "one");
    let theirs = DocumentKey { scope: scope("app_other"), ..ours.clone() };
    let elsewhere = key("notes2", "one");
    first.commit(&ours, created(&ours)).await;
    for other in [&theirs, &elsewhere] {
        assert_eq!(second.get(other).await, None);
        assert!(second.revisions(other).await.is_empty());
        assert!(second.list(other, query(10)).await.0.is_empty());
        assert!(second.topic(other, Change::Created).await.is_empty());
        second.commit(other, created(other)).await;
        second.commit(other, counted(other, None)).await;
    }
    assert_eq!(first.get(&ours).await.map(|document| document.revision), Some(1));
    assert_eq!(first.topic(&ours, Change::Created).await.len(), 1);
    assert!(first.topic(&ours, Change::Updated).await.is_empty());
}
