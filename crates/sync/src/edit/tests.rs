use super::*;
use document_store::{DocumentId, ServiceName};
use shared_types::{AppId, Environment, Scope};

const NOW: i64 = 1_700_000_000_000;

fn rules() -> Rules {
    Rules { clock: Arc::new(|| NOW), max_bytes: 1_000 }
}

fn key() -> DocumentKey {
    DocumentKey {
        scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
        service: ServiceName::parse("service", "notes").expect("valid"),
        id: DocumentId::parse("one").expect("valid"),
    }
}

fn raw(text: &str) -> RawObject {
    RawObject::parse(text).expect("valid")
}

fn created(data: &str, expires_at: Option<i64>) -> Write {
    let creation = Creation { data: raw(data), expires_at, event_id: None };
    rules().create(&key(), creation, Arc::default())(None).expect("created")
}

fn update(make: impl Fn(&str) -> Result<String, Problem> + Send + Sync + 'static) -> Update {
    Update { expected: None, expires_at: None, make: Arc::new(make) }
}

fn replaced(before: &Document, data: &'static str) -> Result<Write, Problem> {
    rules().update(&key(), update(move |_| Ok(data.to_owned())))(Some(before))
}

#[test]
fn events_carry_what_every_return_mode_needs() {
    let made = created(r#"{"a":1.0}"#, None);
    assert_eq!(
        made.event.payload.as_str(),
        r#"{"service":"notes","documentId":"one","revision":1,"data":{"a":1.0},"diff":{"added":{"a":1.0},"removed":[],"changed":{}}}"#
    );
    assert_eq!((made.event.topic.as_str(), made.event.kind), ("sync.notes.created", "sync.created"));
    let changed = replaced(&made.document, r#"{"a":2}"#).expect("replaced");
    assert_eq!(
        changed.event.payload.as_str(),
        r#"{"service":"notes","documentId":"one","revision":2,"data":{"a":2},"diff":{"added":{},"removed":[],"changed":{"a":{"from":1.0,"to":2}}}}"#
    );
    let metadata = format!(r#"{{"timestamp":{NOW},"operation":"update","revision":2}}"#);
    assert_eq!(changed.event.metadata.as_str(), metadata);
    let gone = rules().delete(&key(), None)(Some(&changed.document)).expect("deleted");
    assert_eq!(
        gone.event.payload.as_str(),
        r#"{"service":"notes","documentId":"one","revision":3,"data":{"a":2},"diff":{"added":{},"removed":["a"],"changed":{}}}"#
    );
    assert_eq!((gone.event.kind, gone.document.deleted), ("sync.deleted", true));
    assert_eq!(gone.event.id, gone.revision.event_id);
}

#[test]
fn the_expected_revision_is_checked_and_the_current_one_told() {
    let made = created("{}", None).document;
    let ask = |expected| Update { expected: Some(expected), ..update(|_| Ok("{}".to_owned())) };
    assert!(rules().update(&key(), ask(1))(Some(&made)).is_ok());
    for problem in [
        rules().update(&key(), ask(3))(Some(&made)).expect_err("another revision"),
        rules().delete(&key(), Some(3))(Some(&made)).expect_err("another revision"),
        rules().restore(&key(), Some(3), raw("{}"))(Some(&made)).expect_err("another revision"),
    ] {
        assert_eq!((problem.kind, problem.code), (ErrorKind::Conflict, "REVISION_CONFLICT"));
        assert_eq!(problem.details, [Violation::new("currentRevision", "1")]);
        assert!(problem.message.contains("conflict"));
    }
}

#[test]
fn what_is_not_there_or_past_its_time_is_not_found() {
    let due = created("{}", Some(NOW + 1)).document;
    let due = Document { expires_at: Some(NOW), ..due };
    let gone = Document { deleted: true, expires_at: None, ..due.clone() };
    for before in [None, Some(&due), Some(&gone)] {
        for edit in [rules().update(&key(), update(|_| Ok("{}".to_owned()))), rules().delete(&key(), None)] {
            assert_eq!(edit(before).expect_err("not there").code, "NOT_FOUND");
        }
    }
    assert_eq!(rules().restore(&key(), None, raw("{}"))(None).expect_err("never there").code, "NOT_FOUND");
}

#[test]
fn creating_again_counts_on_and_a_due_document_is_reported() {
    let made = created(r#"{"a":1,"b":1}"#, None).document;
    let create = |expired: &Arc<AtomicBool>| {
        rules().create(
            &key(),
            Creation { data: raw(r#"{"a":1,"c":2}"#), expires_at: None, event_id: None },
            expired.clone(),
        )
    };
    let expired = Arc::new(AtomicBool::new(true));
    assert_eq!(create(&expired)(Some(&made)).expect_err("there").code, "CONFLICT");
    assert!(!expired.load(Ordering::Acquire));
    let due = Document { expires_at: Some(NOW - 1), ..made.clone() };
    assert_eq!(create(&expired)(Some(&due)).expect_err("still there").code, "CONFLICT");
    assert!(expired.load(Ordering::Acquire));
    let gone = rules().expire(&key())(Some(&due)).expect("expired");
    assert_eq!((gone.revision.change, gone.revision.undo.as_ref()), (Change::Deleted, "[]"));
    let again = create(&expired)(Some(&gone.document)).expect("created");
    assert_eq!((again.document.revision, again.document.created_at), (3, NOW));
    assert_eq!(again.revision.diff.as_str(), r#"{"added":{"a":1,"c":2},"removed":[],"changed":{}}"#);
    let undo = r#"[{"op":"unset","path":"/c"},{"op":"set","path":"/b","value":1}]"#;
    assert_eq!(&*again.revision.undo, undo, "back to what the deleted document said");
}

#[test]
fn only_what_is_due_expires() {
    let due = created("{}", Some(NOW + 1)).document;
    for before in [
        Document { expires_at: None, ..due.clone() },
        due.clone(),
        Document { deleted: true, expires_at: Some(NOW), ..due.clone() },
    ] {
        assert!(rules().expire(&key())(Some(&before)).is_err());
    }
    assert!(rules().expire(&key())(Some(&Document { expires_at: Some(NOW), ..due })).is_ok());
    assert!(rules().expire(&key())(None).is_err());
}

#[test]
fn times_are_kept_and_lie_in_the_future() {
    let made = created("{}", Some(NOW + 5)).document;
    let changed = replaced(&made, "{}").expect("replaced").document;
    assert_eq!(changed.expires_at, Some(NOW + 5));
    let ask = |expires_at| Update { expires_at, ..update(|_| Ok("{}".to_owned())) };
    let write = |expires_at| rules().update(&key(), ask(Some(expires_at)))(Some(&made));
    assert_eq!(write(None).expect("never").document.expires_at, None);
    assert_eq!(write(Some(NOW + 9)).expect("later").document.expires_at, Some(NOW + 9));
    for bad in [NOW, 0, -1, LATEST + 1] {
        assert_eq!(write(Some(bad)).expect_err("past").details[0].path, "expiresAt");
    }
}

#[test]
fn what_grows_beyond_the_limits_is_refused() {
    let made = created("{}", None).document;
    let large = rules().update(&key(), update(|_| Ok(format!("{{\"a\":\"{}\"}}", "x".repeat(1_000)))));
    assert_eq!(large(Some(&made)).expect_err("large").kind, ErrorKind::TooLarge);
    let deep =
        rules().update(&key(), update(|_| Ok(format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100)))));
    assert_eq!(deep(Some(&made)).expect_err("deep").code, "TOO_DEEP");
}

#[test]
fn time_never_goes_back() {
    let made = created("{}", None).document;
    let ahead = Document { updated_at: NOW + 500, ..made };
    let changed = replaced(&ahead, "{}").expect("replaced");
    assert_eq!((changed.document.updated_at, changed.document.created_at), (NOW + 500, NOW));
}
