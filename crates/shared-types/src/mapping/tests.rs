use super::*;

fn documented() -> Value {
    json!({
        "table": "sessions",
        "topic": "session.status",
        "events": ["insert", "update"],
        "triggerColumns": ["status", "ended_at"],
        "when": { "or": [{ "changed": "status" }, { "changed": "ended_at" }] },
        "payload": { "sessionId": "$row.id", "status": "$row.status", "endedAt": "$row.ended_at" }
    })
}

fn problems(value: Value) -> Vec<(String, String)> {
    let problem = MappingDefinition::parse(&value).expect_err("must be refused");
    problem.details.into_iter().map(|v| (v.path, v.message)).collect()
}

fn with(member: &str, value: Value) -> Value {
    let mut mapping = documented();
    mapping[member] = value;
    mapping
}

#[test]
fn the_documented_mapping_survives_a_round_trip() {
    let mapping = MappingDefinition::parse(&documented()).expect("valid");
    assert_eq!(mapping.to_json(), documented());
    assert_eq!(&*mapping.table.schema, "public");
    assert!(mapping.needs_old_row());
}

#[test]
fn every_operator_and_nesting_survives_a_round_trip() {
    let value = json!({
        "table": "salesforce.sp_exam_session__c",
        "topic": "exam.session",
        "events": ["insert", "update", "delete"],
        "when": { "and": [
            { "not": { "in": ["$row.status", ["draft", "$$row", null, 3]] } },
            { "or": [
                { "eq": ["$row.a", "$old.a"] }, { "neq": ["$row.a", null] }, { "gt": ["$row.n", 1.5] },
                { "gte": ["$row.n", 1] }, { "lt": [5, "$row.n"] }, { "lte": ["$row.n", 1] },
                { "isNull": "$old.b" }, { "changed": "C d" }
            ] }
        ] },
        "payload": { "a": { "b": ["$row.x", 1, null, true, "text", { "c": "$old.y" }] }, "d": "$$row.id", "e": "$5" }
    });
    let mapping = MappingDefinition::parse(&value).expect("valid");
    assert_eq!(mapping.to_json(), value);
    assert_eq!(mapping.table.to_string(), "salesforce.sp_exam_session__c");
}

#[test]
fn members_of_the_resource_are_passed_over() {
    let mut value = documented();
    value["id"] = json!("map_1");
    value["environment"] = json!("development");
    assert!(MappingDefinition::parse(&value).is_ok());
}

#[test]
fn every_mistake_is_reported_with_its_path() {
    let found = problems(json!({
        "table": 5, "topic": "a b", "events": ["insert", "truncate"], "triggerColumns": ["ok", 1],
        "when": { "and": [{ "changed": 1 }, { "eq": ["$row.a"] }, { "like": 1 }, {}] },
        "payload": { "x": "$row", "y": ["$old."] }, "extra": 1
    }));
    let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "extra",
            "table",
            "topic",
            "events[1]",
            "triggerColumns[1]",
            "when.and[0].changed",
            "when.and[1].eq",
            "when.and[2].like",
            "when.and[3]",
            "payload.x",
            "payload.y[0]",
        ]
    );
}

#[test]
fn single_rules() {
    for (member, value, path) in [
        ("table", json!("a.b.c"), "table"),
        ("table", json!(""), "table"),
        ("table", json!("x".repeat(64)), "table"),
        ("table", Value::Null, "table"),
        ("topic", json!("sync.notes.updated"), "topic"),
        ("topic", json!(""), "topic"),
        ("events", json!([]), "events"),
        ("events", json!("insert"), "events"),
        ("triggerColumns", json!([]), "triggerColumns"),
        ("triggerColumns", json!("a"), "triggerColumns"),
        ("payload", json!([]), "payload"),
        ("payload", json!({ "a": "$row.b.c" }), "payload.a"),
        ("payload", json!({ "a": "x\u{0}" }), "payload.a"),
        ("when", json!([]), "when"),
        ("when", json!({ "and": [] }), "when.and"),
        ("when", json!({ "and": [{}, {}], "or": [] }), "when"),
        ("when", json!({ "not": 5 }), "when.not"),
        ("when", json!({ "isNull": "a" }), "when.isNull"),
        ("when", json!({ "eq": [1, 2] }), "when.eq"),
        ("when", json!({ "eq": ["$row.a", {}] }), "when.eq[1]"),
        ("when", json!({ "in": ["$row.a", []] }), "when.in[1]"),
        ("when", json!({ "in": ["$row.a", ["$row.b"]] }), "when.in[1][0]"),
        ("when", json!({ "in": ["a", [1]] }), "when.in[0]"),
        ("when", json!({ "in": "a" }), "when.in"),
    ] {
        let found = problems(with(member, value.clone()));
        assert_eq!(found.first().map(|(path, _)| path.as_str()), Some(path), "{member} {value}");
        assert!(!found[0].1.is_empty());
    }
}

#[test]
fn depth_and_size_are_limited() {
    let mut when = json!({ "changed": "a" });
    let mut payload = json!("$row.a");
    for _ in 0..MAX_CONDITION_DEPTH {
        when = json!({ "not": when });
        payload = json!({ "a": payload });
    }
    assert!(problems(with("when", when))[0].1.contains("deeper"));
    assert!(problems(with("payload", payload))[0].1.contains("deeper"));
    assert!(problems(with("payload", json!({ "a": vec![1; MAX_TEMPLATE_NODES] })))[0].1.contains("at most"));
    let many = vec![json!({ "changed": "a" }); MAX_CONDITIONS];
    assert!(problems(with("when", json!({ "or": many })))[0].1.contains("at most"));
    let large = MappingDefinition::parse(&with("topic", json!("x".repeat(MAX_MAPPING_BYTES))));
    assert_eq!(large.expect_err("too large").code, "LIMIT_EXCEEDED");
}

#[test]
fn a_patch_replaces_members_and_null_removes_optional_ones() {
    let mapping = MappingDefinition::parse(&documented()).expect("valid");
    let patched = mapping
        .patched(&json!({ "when": null, "triggerColumns": null, "events": ["delete", "insert", "insert"] }))
        .expect("valid");
    assert_eq!(patched.events, [Operation::Insert, Operation::Delete]);
    assert_eq!((patched.when, patched.trigger_columns.len()), (None, 0));
    assert!(mapping.patched(&json!({ "payload": null })).is_err());
    assert!(mapping.patched(&json!([])).is_err());
}

#[test]
fn says_when_the_old_row_is_needed() {
    let needs = |value: Value| MappingDefinition::parse(&value).expect("valid").needs_old_row();
    let base = |events: Value| json!({ "table": "t", "topic": "a.b", "events": events, "payload": { "a": "$row.a" } });
    assert!(!needs(base(json!(["insert", "update"]))));
    assert!(!needs(base(json!(["delete"]))));
    let mut old = base(json!(["delete"]));
    old["payload"] = json!({ "a": ["$old.a"] });
    assert!(needs(old));
    let mut inserts = base(json!(["insert"]));
    inserts["when"] = json!({ "changed": "a" });
    assert!(!needs(inserts));
}
