use super::*;
use crate::{row::Column, values::Kind};
use serde_json::json;
use shared_types::{AppId, Environment, mapping::TableName};

const TOKEN: &str = "bf_1/0/aa";

fn relation(names: &[&str]) -> Relation {
    let column = |name: &&str| Column { name: (*name).to_owned(), kind: Kind::Text, key: *name == "id" };
    Relation {
        oid: 7,
        table: TableName::new("public", "orders"),
        columns: names.iter().map(column).collect(),
    }
}

fn keyed() -> Arc<Keyed> {
    Arc::new(Keyed::of(relation(&["id", "note"]), vec![(0, "text".to_owned())]))
}

fn row(id: &str) -> TextRow {
    vec![Some(id.as_bytes().into()), Some(b"x".as_slice().into())]
}

struct Bench {
    tell: mpsc::Sender<ToStream>,
    snapshots: Snapshots,
}

impl Bench {
    fn new() -> Self {
        let (tell, inbox) = mpsc::channel(4);
        Self { tell, snapshots: Snapshots::new(inbox) }
    }

    fn meet(&mut self, which: &str) -> Vec<Routed> {
        self.snapshots.message(PREFIX, format!("{TOKEN}/{which}").as_bytes(), 100, 5, 3)
    }

    fn begin(&mut self) {
        let begin = ToStream::Begin { token: TOKEN.to_owned(), keyed: keyed() };
        assert!(self.tell.try_send(begin).is_ok());
        assert!(self.meet("low").is_empty());
    }

    fn read(&mut self, ids: &[&str], running: &[u32]) -> oneshot::Receiver<Verdict> {
        let definition = json!({ "table": "orders", "topic": "a.b", "events": ["delete"], "payload": { "id": "$row.id" } });
        let destination = Destination {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Development),
            mapping: MappingId::from_stored("map_1"),
            definition: MappingDefinition::parse(&definition).unwrap(),
            run: "bf_1".to_owned(),
            chunk: 0,
        };
        let (answer, verdict) = oneshot::channel();
        let rows = ids.iter().map(|id| row(id)).collect();
        let (token, running) = (TOKEN.to_owned(), running.to_vec());
        let chunk = ReadChunk { token, keyed: keyed(), rows, running, destination, answer };
        assert!(self.tell.try_send(ToStream::Read(Box::new(chunk))).is_ok());
        verdict
    }
}

fn ids(events: &[Routed]) -> Vec<String> {
    let mut ids: Vec<String> = events.iter().map(|event| event.draft.payload.as_str().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn what_changed_between_the_watermarks_is_left_out_by_old_and_new_key() {
    let mut bench = Bench::new();
    bench.begin();
    // The stream may describe the table with its columns in another order.
    let stream = relation(&["note", "id"]);
    let moved = Message::Update {
        relation: 7,
        old: crate::pgoutput::OldTuple::Key(vec![Cell::Null, Cell::Text(b"1")]),
        new: vec![Cell::Text(b"y"), Cell::Text(b"2")],
    };
    bench.snapshots.row(&stream, &moved);
    let verdict = bench.read(&["1", "2", "3"], &[]);
    let events = bench.meet("high");
    assert_eq!(ids(&events), ["{\"id\":\"3\"}"], "whichever operations the mapping looks at");
    bench.snapshots.confirmed(100);
    bench.snapshots.confirmed(101);
    assert_eq!(verdict.blocking_recv(), Ok(Verdict::Sent));
    assert!(!bench.snapshots.watches());
}

#[test]
fn positions_come_from_keys_and_grow() {
    let all: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let place_of = |ids: &[&str]| {
        let mut bench = Bench::new();
        bench.begin();
        let _verdict = bench.read(ids, &[]);
        let events = bench.meet("high");
        let at = |event: &Routed| match &event.identity {
            Identity::Positioned { at, term, source } => {
                assert_eq!((*term, &**source, at.lsn), (3, "backfill:bf_1", 0));
                (event.draft.id.clone().unwrap().to_string(), at.ordinal)
            }
            other => panic!("{other:?}"),
        };
        events.iter().map(at).collect::<Vec<_>>()
    };
    let whole = place_of(&all.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(whole.is_sorted_by(|a, b| a.1 < b.1));
    let part = place_of(&all.iter().skip(7).map(String::as_str).collect::<Vec<_>>());
    assert!(part.iter().all(|event| whole.contains(event)), "the same ids and places without the others");
}

#[test]
fn a_transaction_that_the_snapshot_did_not_see_makes_it_read_again() {
    let mut bench = Bench::new();
    bench.snapshots.begin(41);
    bench.begin();
    bench.snapshots.begin(42);
    let again = bench.read(&["1"], &[41]);
    assert!(bench.meet("high").is_empty());
    assert_eq!(again.blocking_recv(), Ok(Verdict::Again));
    // One that the stream met after the first watermark is in the keys that changed.
    bench.begin();
    bench.snapshots.begin(43);
    let _sent = bench.read(&["1"], &[43]);
    assert_eq!(bench.meet("high").len(), 1);
}

#[test]
fn watermarks_of_others_mean_nothing() {
    let mut bench = Bench::new();
    assert!(bench.meet("low").is_empty() && bench.meet("high").is_empty());
    assert!(bench.snapshots.message("another", b"x/low", 1, 1, 1).is_empty());
    assert!(bench.snapshots.message(PREFIX, &[0xFF], 1, 1, 1).is_empty());
    assert!(bench.snapshots.message(PREFIX, b"none", 1, 1, 1).is_empty());
    // The second without the first: the session began in between.
    let again = bench.read(&["1"], &[]);
    assert!(bench.tell.try_send(ToStream::Begin { token: TOKEN.to_owned(), keyed: keyed() }).is_ok());
    assert!(bench.meet("high").is_empty());
    assert_eq!(again.blocking_recv(), Ok(Verdict::Again));
}

#[test]
fn a_change_whose_key_is_not_told_makes_it_read_again() {
    let mut bench = Bench::new();
    bench.begin();
    let gone = Message::Delete {
        relation: 7,
        old: crate::pgoutput::OldTuple::Key(vec![Cell::Null, Cell::Text(b"x")]),
    };
    bench.snapshots.row(&relation(&["id", "note"]), &gone);
    let again = bench.read(&["1"], &[]);
    assert!(bench.meet("high").is_empty());
    assert_eq!(again.blocking_recv(), Ok(Verdict::Again));
}

#[test]
fn what_is_never_met_does_not_fill_the_way_to_the_stream() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let begin = ToStream::Begin { token: "bf_1/0/never".to_owned(), keyed: keyed() };
        assert!(bench.tell.try_send(begin).is_ok());
        bench.snapshots.confirmed(1);
    }
}
