use super::*;
use crate::{
    row::{Cell, Column, OldRow, Relation},
    values::{Kind, OwnTypes},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared_types::mapping::{MappingDefinition, TableName};

/// id (key), status, amount, body, ended_at, active, meta
fn relation() -> Relation {
    let column = |name: &str, oid: u32, key: bool| Column {
        name: name.to_owned(),
        kind: Kind::of(oid, &OwnTypes::default()),
        key,
    };
    Relation {
        oid: 1,
        table: TableName::new("public", "orders"),
        columns: vec![
            column("id", 23, true),
            column("status", 25, false),
            column("amount", 1700, false),
            column("body", 25, false),
            column("ended_at", 1184, false),
            column("active", 16, false),
            column("meta", 3802, false),
        ],
    }
}

const ROW: [Cell<'static>; 7] = [
    Cell::Text(b"7"),
    Cell::Text(b"paid"),
    Cell::Text(b"12.50"),
    Cell::Text(b"long"),
    Cell::Null,
    Cell::Text(b"t"),
    Cell::Text(b"{\"a\": [1]}"),
];

fn with(changes: &[(usize, Cell<'static>)]) -> Vec<Cell<'static>> {
    let mut row = ROW.to_vec();
    for (at, cell) in changes {
        row[*at] = *cell;
    }
    row
}

fn decide(mapping: Value, operation: Operation, new: &[Cell<'_>], old: OldRow<'_>) -> Decision {
    let mut whole =
        json!({ "table": "orders", "topic": "a.b", "events": ["insert", "update", "delete"], "payload": {} });
    for (name, value) in mapping.as_object().expect("an object") {
        whole[name] = value.clone();
    }
    let relation = relation();
    let definition = MappingDefinition::parse(&whole).expect("valid mapping");
    CompiledMapping::new(&definition, &relation).evaluate(&RowChange {
        relation: &relation,
        operation,
        new,
        old,
    })
}

fn fires(decision: &Decision) -> (Value, Value) {
    let Decision::Fires { payload, metadata } = decision else { panic!("does not fire: {decision:?}") };
    let metadata = serde_json::from_str(&format!("{{{metadata}}}")).expect("metadata is JSON");
    (serde_json::from_str(payload.as_str()).expect("payload is JSON"), metadata)
}

fn update(when: Value, new: &[Cell<'_>], old: OldRow<'_>) -> Decision {
    decide(json!({ "when": when }), Operation::Update, new, old)
}

#[test]
fn writes_the_payload_with_its_types() {
    let payload = json!({
        "id": "$row.id", "nested": { "list": ["$row.amount", 1, null, "$row.ended_at"], "meta": "$row.meta" },
        "active": "$row.active", "text": "$$row.id", "fixed": { "a": [true, {}] }, "before": "$old.status"
    });
    let decision = decide(json!({ "payload": payload }), Operation::Insert, &ROW, OldRow::None);
    let Decision::Fires { payload, .. } = &decision else { panic!("{decision:?}") };
    assert_eq!(
        payload.as_str(),
        "{\"id\":7,\"nested\":{\"list\":[12.50,1,null,null],\"meta\":{\"a\":[1]}},\"active\":true,\
         \"text\":\"$row.id\",\"fixed\":{\"a\":[true,{}]},\"before\":null}"
    );
    assert_eq!(fires(&decision).1, json!({ "table": "orders", "operation": "insert" }));
}

#[test]
fn what_is_not_in_the_stream_is_left_out_and_named() {
    let new = with(&[(3, Cell::Unchanged)]);
    let payload = json!({ "first": "$row.body", "id": "$row.id", "in": { "body": "$row.body" }, "list": [1, "$row.body", 2], "old": "$old.status", "none": "$row.nothing" });
    let decision = decide(json!({ "payload": payload }), Operation::Update, &new, OldRow::None);
    let (payload, metadata) = fires(&decision);
    assert_eq!(payload, json!({ "id": 7, "in": {}, "list": [1, 2] }));
    assert_eq!(metadata["unavailable"], json!(["first", "in.body", "list[1]", "old", "none"]));
}

#[test]
fn with_full_identity_an_unchanged_value_is_the_old_one() {
    let new = with(&[(3, Cell::Unchanged)]);
    let decision =
        decide(json!({ "payload": { "b": "$row.body" } }), Operation::Update, &new, OldRow::Full(&ROW));
    assert_eq!(fires(&decision).0, json!({ "b": "long" }));
}

#[test]
fn a_delete_shows_the_row_as_far_as_it_is_known() {
    let payload = json!({ "id": "$row.id", "status": "$row.status", "old": "$old.id" });
    let mut key = [Cell::Null; 7];
    key[0] = Cell::Text(b"7");
    let decision = decide(json!({ "payload": payload }), Operation::Delete, &[], OldRow::Key(&key));
    let (found, metadata) = fires(&decision);
    assert_eq!((found, metadata["unavailable"].clone()), (json!({ "id": 7, "old": 7 }), json!(["status"])));
    let full = decide(json!({ "payload": payload }), Operation::Delete, &[], OldRow::Full(&ROW));
    assert_eq!(fires(&full).0, json!({ "id": 7, "status": "paid", "old": 7 }));
}

#[test]
fn changed_knows_what_it_does_not_know() {
    let old = with(&[(1, Cell::Text(b"open"))]);
    let unknown = Decision::Filtered(Filtered::Condition);
    let status = json!({ "changed": "status" });
    assert_eq!(fires(&update(status.clone(), &ROW, OldRow::Full(&old))).1.get("changedUnknown"), None);
    assert_eq!(update(json!({ "changed": "body" }), &ROW, OldRow::Full(&old)), unknown);
    // Without the old row: fires, marked.
    assert_eq!(fires(&update(status.clone(), &ROW, OldRow::None)).1["changedUnknown"], json!(true));
    let not = json!({ "not": status });
    assert_eq!(fires(&update(not, &ROW, OldRow::None)).1["changedUnknown"], json!(true));
    // The key is known: unchanged where no old key came, and compared where one did.
    assert_eq!(update(json!({ "changed": "id" }), &ROW, OldRow::None), unknown);
    let key = with(&[(0, Cell::Text(b"6"))]);
    assert_eq!(
        fires(&update(json!({ "changed": "id" }), &ROW, OldRow::Key(&key))).1.get("changedUnknown"),
        None
    );
    // An unchanged value that is stored out of line did not change.
    let toast = with(&[(3, Cell::Unchanged)]);
    assert_eq!(update(json!({ "changed": "body" }), &toast, OldRow::None), unknown);
    // From and to null is a change.
    let ended = with(&[(4, Cell::Text(b"2024-01-01 00:00:00+00"))]);
    fires(&update(json!({ "changed": "ended_at" }), &ended, OldRow::Full(&ROW)));
}

#[test]
fn on_insert_and_delete_every_column_counts_as_changed() {
    for operation in [Operation::Insert, Operation::Delete] {
        let mapping = json!({ "when": { "changed": "body" }, "triggerColumns": ["status"] });
        let decision = decide(mapping, operation, &ROW, OldRow::Full(&ROW));
        assert_eq!(fires(&decision).1.get("changedUnknown"), None, "{operation}");
    }
}

#[test]
fn trigger_columns_hold_for_updates() {
    let old = with(&[(1, Cell::Text(b"open"))]);
    let mapping = |columns: Value| json!({ "triggerColumns": columns });
    let on = |columns: Value, old| decide(mapping(columns), Operation::Update, &ROW, old);
    fires(&on(json!(["body", "status"]), OldRow::Full(&old)));
    assert_eq!(on(json!(["body"]), OldRow::Full(&old)), Decision::Filtered(Filtered::Unchanged));
    assert_eq!(fires(&on(json!(["body"]), OldRow::None)).1["changedUnknown"], json!(true));
}

#[test]
fn compares_by_value_and_type() {
    for (when, expected) in [
        (json!({ "eq": ["$row.status", "paid"] }), true),
        (json!({ "eq": ["$row.id", 7.0] }), true),
        (json!({ "eq": ["$row.id", "7"] }), false),
        (json!({ "neq": ["$row.id", "7"] }), true),
        (json!({ "eq": ["$row.amount", 12.5] }), true),
        (json!({ "gt": ["$row.amount", 12] }), true),
        (json!({ "gt": ["$row.amount", 12.5] }), false),
        (json!({ "gte": ["$row.amount", 12.5] }), true),
        (json!({ "lt": [12, "$row.amount"] }), true),
        (json!({ "lte": ["$row.status", "pb"] }), true),
        (json!({ "gt": ["$row.status", 1] }), false),
        (json!({ "eq": ["$row.ended_at", null] }), true),
        (json!({ "neq": ["$row.ended_at", null] }), false),
        (json!({ "gt": ["$row.ended_at", null] }), false),
        (json!({ "isNull": "$row.ended_at" }), true),
        (json!({ "isNull": "$row.status" }), false),
        (json!({ "eq": ["$row.active", true] }), true),
        (json!({ "eq": ["$row.meta", "x"] }), false),
        (json!({ "in": ["$row.status", ["open", "paid"]] }), true),
        (json!({ "in": ["$row.id", ["7", 8]] }), false),
        (json!({ "in": ["$row.ended_at", [null]] }), true),
        (json!({ "and": [{ "eq": ["$row.id", 7] }, { "not": { "eq": ["$row.status", "open"] } }] }), true),
        (json!({ "or": [{ "eq": ["$row.id", 8] }, { "isNull": "$row.body" }] }), false),
        (json!({ "eq": ["$row.status", "$row.status"] }), true),
    ] {
        let decision = decide(json!({ "when": when }), Operation::Insert, &ROW, OldRow::None);
        assert_eq!(matches!(decision, Decision::Fires { .. }), expected, "{when}");
    }
}

#[test]
fn times_compare_by_instant() {
    let new = with(&[(4, Cell::Text(b"2024-06-01 10:00:00.5+00"))]);
    for (when, expected) in [
        (json!({ "gt": ["$row.ended_at", "2024-06-01T10:00:00Z"] }), true),
        (json!({ "lt": ["$row.ended_at", "2024-06-01T12:00:00+01:00"] }), true),
        (json!({ "eq": ["$row.ended_at", "2024-06-01T10:00:00.500Z"] }), true),
        (json!({ "gte": ["$row.ended_at", "2024-06-02"] }), false),
        (json!({ "eq": ["$row.ended_at", "soon"] }), false),
    ] {
        let decision = decide(json!({ "when": when }), Operation::Insert, &new, OldRow::None);
        assert_eq!(matches!(decision, Decision::Fires { .. }), expected, "{when}");
    }
}

#[test]
fn a_comparison_with_an_unavailable_value_does_not_fire() {
    let new = with(&[(3, Cell::Unchanged)]);
    let filtered = Decision::Filtered(Filtered::Unavailable);
    let body = json!({ "eq": ["$row.body", "x"] });
    for when in [
        body.clone(),
        json!({ "neq": ["$row.body", "x"] }),
        json!({ "not": body }),
        json!({ "in": ["$row.body", [null]] }),
        json!({ "isNull": "$old.status" }),
        json!({ "and": [body, { "eq": ["$row.id", 7] }] }),
        json!({ "or": [body, { "eq": ["$row.id", 8] }] }),
    ] {
        assert_eq!(update(when.clone(), &new, OldRow::None), filtered, "{when}");
    }
    // What is stored out of line is not null, and one true alternative is enough.
    fires(&update(json!({ "not": { "isNull": "$row.body" } }), &new, OldRow::None));
    fires(&update(json!({ "or": [body, { "eq": ["$row.id", 7] }] }), &new, OldRow::None));
    let never = json!({ "and": [body, { "eq": ["$row.id", 8] }] });
    assert_eq!(update(never, &new, OldRow::None), Decision::Filtered(Filtered::Condition));
}

#[test]
fn a_condition_on_a_column_that_is_not_there_fails() {
    let decision = update(json!({ "changed": "nothing" }), &ROW, OldRow::None);
    assert_eq!(decision, Decision::Failed("the row changes of orders hold no column nothing".to_owned()));
}

#[test]
fn an_operation_that_is_not_captured_is_filtered() {
    let decision = decide(json!({ "events": ["insert"] }), Operation::Update, &ROW, OldRow::None);
    assert_eq!(decision, Decision::Filtered(Filtered::Operation));
}

fn any_cell() -> impl Strategy<Value = Cell<'static>> {
    prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        prop::sample::select(vec![&b"1"[..], b"2", b"x\"", b"t", b"{}", b"2024-01-01 00:00:00+00", b"\xff"])
            .prop_map(Cell::Text),
    ]
}

fn any_condition() -> impl Strategy<Value = Value> {
    let columns = || prop::sample::select(vec!["id", "status", "amount", "body", "ended_at", "meta"]);
    let leaf = prop_oneof![
        columns().prop_map(|c| json!({ "changed": c })),
        columns().prop_map(|c| json!({ "isNull": format!("$old.{c}") })),
        (columns(), prop::sample::select(vec!["eq", "neq", "gt", "lte"]))
            .prop_map(|(c, op)| json!({ op: [format!("$row.{c}"), 1] })),
        columns().prop_map(|c| json!({ "in": [format!("$row.{c}"), [null, "x\""]] })),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({ "and": list })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|list| json!({ "or": list })),
            inner.prop_map(|c| json!({ "not": c })),
        ]
    })
}

proptest! {
    #[test]
    fn double_negation_changes_nothing(when in any_condition(), new in prop::collection::vec(any_cell(), 7), old in prop::collection::vec(any_cell(), 7), full: bool) {
        let old = if full { OldRow::Full(&old) } else { OldRow::None };
        let twice = json!({ "not": { "not": when } });
        prop_assert_eq!(update(when, &new, old), update(twice, &new, old));
    }

    #[test]
    fn and_is_or_of_the_negated_except_for_what_is_unknown(a in any_condition(), b in any_condition(), new in prop::collection::vec(any_cell(), 7), old in prop::collection::vec(any_cell(), 7)) {
        // With every value in the stream the logic is the ordinary one.
        let known = |cells: Vec<Cell<'static>>| -> Vec<Cell<'static>> {
            cells.into_iter().map(|c| if c == Cell::Unchanged { Cell::Null } else { c }).collect()
        };
        let (new, old) = (known(new), known(old));
        let left = update(json!({ "and": [a, b] }), &new, OldRow::Full(&old));
        let right = update(json!({ "not": { "or": [{ "not": a }, { "not": b }] } }), &new, OldRow::Full(&old));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn payload_and_metadata_are_always_json(new in prop::collection::vec(any_cell(), 7), old in prop::collection::vec(any_cell(), 7), kind in 0..3) {
        let old = match kind { 0 => OldRow::None, 1 => OldRow::Key(&old), _ => OldRow::Full(&old) };
        let payload = json!({ "a": ["$row.id", "$old.id", { "x": "$row.meta" }], "b": "$old.ended_at", "c": { "d": "$row.body" } });
        fires(&decide(json!({ "payload": payload }), Operation::Update, &new, old));
    }
}
