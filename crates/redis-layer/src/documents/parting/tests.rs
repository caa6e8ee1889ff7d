use super::*;
use document_store::{Change, DocumentId, ServiceName};
use shared_types::{AppId, Environment, EventId, RawObject, Scope};

fn key(id: &str) -> DocumentKey {
    DocumentKey {
        scope: Scope::new(AppId::from_stored("app_a"), Environment::Staging),
        service: ServiceName::from_stored("notes"),
        id: DocumentId::from_stored(id),
    }
}

fn written(id: &str, revision: u64, bytes: usize) -> Flush {
    let document = Document {
        key: key(id),
        revision,
        data: RawObject::from_trusted("x".repeat(bytes)),
        created_at: 0,
        updated_at: 0,
        expires_at: None,
        deleted: false,
    };
    let revision = Revision {
        revision,
        change: Change::Updated,
        diff: RawObject::from_trusted("{}"),
        undo: "[]".into(),
        event_id: EventId::from_stored("evt_1"),
        at: 0,
    };
    Flush { document: Arc::new(document), revisions: vec![revision], wanted: Vec::new() }
}

fn wanted(id: &str, revision: u64) -> Flush {
    let flush = written(id, revision, 10);
    let (reply, _) = oneshot::channel();
    Flush { wanted: vec![(flush.document.clone(), reply)], ..flush }
}

fn names(parts: &[Part]) -> Vec<&str> {
    parts.iter().map(|part| part.unflushed.document.key.id.as_str()).collect()
}

#[test]
fn writes_to_one_document_gather() {
    let mut parts = Parts::default();
    parts.add(written("a", 1, 100));
    parts.add(written("b", 1, 10));
    parts.add(written("a", 2, 50));
    assert_eq!(parts.bytes, 50 + 10 + 3 * 4);
    let taken = parts.take();
    assert_eq!(names(&taken), ["a", "b"]);
    let Unflushed { document, revisions } = &taken[0].unflushed;
    assert_eq!(document.revision, 2);
    assert_eq!(revisions.iter().map(|r| r.revision).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(parts.bytes, 0);
    assert!(parts.take().is_empty());
}

#[test]
fn no_more_revisions_wait_than_are_kept() {
    let mut parts = Parts::default();
    (1..=KEPT_REVISIONS + 20).for_each(|revision| parts.add(written("a", revision, 10)));
    assert_eq!(parts.bytes, 10 + 4 * KEPT_REVISIONS as usize);
    let taken = parts.take();
    let waiting = &taken[0].unflushed.revisions;
    assert_eq!((waiting.len() as u64, waiting[0].revision), (KEPT_REVISIONS, 21));
}

#[test]
fn what_somebody_waits_for_goes_first_and_what_is_too_much_later() {
    let mut parts = Parts::default();
    for number in 0..BATCH {
        parts.add(written(&format!("d{number}"), 1, 10));
    }
    parts.add(wanted("late", 1));
    parts.add(wanted(&format!("d{}", BATCH - 1), 2));
    let first = parts.take();
    assert_eq!(first.len(), BATCH);
    assert_eq!(names(&first)[..3], ["late", &format!("d{}", BATCH - 1), "d0"]);
    assert_eq!(names(&parts.take()), [format!("d{}", BATCH - 2)]);
    for large in ["x", "y", "z"] {
        parts.add(written(large, 1, BYTES / 2));
    }
    assert_eq!(names(&parts.take()), ["x", "y"]);
    assert_eq!(names(&parts.take()), ["z"]);
}

#[test]
fn the_more_waits_the_more_goes_together() {
    let taken = |waiting: usize| {
        let mut parts = Parts::default();
        (0..waiting).for_each(|number| parts.add(written(&format!("d{number}"), 1, 10)));
        parts.take().len()
    };
    assert_eq!([0, 50, BATCH, SHARE * BATCH].map(taken), [0, 50, BATCH, BATCH]);
    assert_eq!(taken(SHARE * (BATCH + 40)), BATCH + 40);
    assert_eq!([BEHIND, 2 * BEHIND].map(taken), [DOCUMENTS, DOCUMENTS]);
    let mut parts = Parts::default();
    (0..2 * BATCH).for_each(|number| parts.add(wanted(&format!("d{number}"), 1)));
    assert_eq!(parts.take().len(), 2 * BATCH, "nobody who waits is put off");
}

#[test]
fn the_order_is_forgotten_with_what_is_gone() {
    let mut parts = Parts::default();
    for number in 0..20 * DOCUMENTS {
        let id = format!("d{number}");
        parts.add(written(&id, 1, 10));
        parts.add(wanted(&id, 2));
        if number % 7 == 0 {
            // Only what is urgent.
            while let Some(key) = parts.urgent.pop_front() {
                parts.parts.remove(&key);
            }
        }
    }
    assert!(parts.order.len() <= 2 * 7 + DOCUMENTS, "{}", parts.order.len());
}
