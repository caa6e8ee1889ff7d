use super::*;
use proptest::prelude::*;
use serde_json::Value;
use shared_types::ErrorKind;

fn parse(text: &str) -> Result<Mutations, Problem> {
    Mutations::parse(&RawValue::from_string(text.to_owned()).expect("JSON"))
}

fn apply(data: &str, mutations: &str) -> Result<String, Problem> {
    parse(mutations)?.apply(data)
}

/// The vectors that the SDKs read too.
#[test]
fn shared_vectors() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        name: String,
        data: Box<RawValue>,
        mutations: Box<RawValue>,
        result: Option<Box<RawValue>>,
        error: Option<String>,
    }
    let text = include_str!("../../../../testdata/sync-mutate.json");
    let vectors: Vec<Vector> = serde_json::from_str(text).expect("vectors");
    assert!(vectors.len() > 30);
    for vector in vectors {
        let data = compact(vector.data.get(), "data").expect("valid");
        let outcome = Mutations::parse(&vector.mutations).and_then(|mutations| mutations.apply(&data));
        match (outcome, vector.result, vector.error) {
            (Ok(found), Some(result), None) => {
                assert_eq!(found, compact(result.get(), "data").expect("valid"), "{}", vector.name);
            }
            (Err(problem), None, Some(path)) => {
                assert_eq!(problem.details[0].path, path, "{}: {problem}", vector.name);
                assert_eq!(problem.kind, ErrorKind::Invalid);
            }
            (outcome, _, _) => panic!("{}: {outcome:?}", vector.name),
        }
    }
}

#[test]
fn a_thousand_operations_and_no_more() {
    let many = |count| format!("[{}]", vec![r#"{"op":"increment","path":"/n","value":1}"#; count].join(","));
    assert_eq!(apply("{}", &many(1_000)).expect("applied"), r#"{"n":1000}"#);
    assert_eq!(parse(&many(1_001)).expect_err("too many").code, "LIMIT_EXCEEDED");
}

#[test]
fn a_call_that_is_too_much_work_is_refused() {
    let data = format!("{{\"list\":[{}]}}", vec![format!("\"{}\"", "x".repeat(1_000)); 600].join(","));
    let many = |operation: &str, count| format!("[{}]", vec![operation; count].join(","));
    let pull = r#"{"op":"pull","path":"/list","value":1}"#;
    assert_eq!(apply(&data, &many(pull, 10)).expect("a few are fine"), data);
    let problem = apply(&data, &many(pull, 1_000)).expect_err("a thousand are not");
    assert_eq!((problem.kind, problem.code), (ErrorKind::TooLarge, "LIMIT_EXCEEDED"));
    let data = format!("{{\"list\":[{}]}}", vec!["1"; 20_000].join(","));
    let unset = r#"{"op":"unset","path":"/list/0"}"#;
    assert_eq!(apply(&data, &many(unset, 1_000)).expect_err("moves too much").code, "LIMIT_EXCEEDED");
}

#[test]
fn what_fails_changes_nothing_and_names_its_index() {
    let problem =
        apply(r#"{"a":1}"#, r#"[{"op":"set","path":"/b","value":2},{"op":"push","path":"/a","value":1}]"#)
            .expect_err("no array");
    assert_eq!((problem.code, problem.details[0].path.as_str()), ("INVALID_MUTATION", "mutations[1]"));
    assert!(problem.message.starts_with("mutations[1]: "), "{problem}");
}

proptest! {
    /// The object form sets its members, whatever they are.
    #[test]
    fn the_object_form_sets_its_members(
        data in crate::compare::tests::object(),
        fields in crate::compare::tests::object().prop_filter("some", |o| !o.is_empty()),
    ) {
        let found = apply(&Value::from(data.clone()).to_string(), &Value::from(fields.clone()).to_string());
        let mut expected = data;
        expected.extend(fields);
        prop_assert_eq!(serde_json::from_str::<Value>(&found.expect("applied")).expect("JSON"), Value::from(expected));
    }

    /// Nothing that a client sends makes it panic, and what comes out is an object.
    #[test]
    fn any_operations_answer_an_object_or_a_problem(
        data in crate::compare::tests::object(),
        operations in prop::collection::vec(
            ("set|unset|increment|push|pull|merge", "(/([a-c]|0|1|-|~0)){0,3}", crate::compare::tests::json()),
            1..6,
        ),
    ) {
        let list: Vec<Value> = operations
            .into_iter()
            .map(|(op, path, value)| match op.as_str() {
                "unset" => serde_json::json!({ "op": op, "path": path }),
                _ => serde_json::json!({ "op": op, "path": path, "value": value }),
            })
            .collect();
        if let Ok(found) = apply(&Value::from(data).to_string(), &Value::from(list).to_string()) {
            prop_assert!(serde_json::from_str::<serde_json::Map<String, Value>>(&found).is_ok(), "{}", found);
        }
    }

    /// Increments commute and add up, whatever order they come in.
    #[test]
    fn increments_add_up(steps in prop::collection::vec(-1_000_000_i64..1_000_000, 1..20)) {
        let mut data = "{}".to_owned();
        for step in &steps {
            data = apply(&data, &format!(r#"[{{"op":"increment","path":"/n","value":{step}}}]"#)).expect("applied");
        }
        prop_assert_eq!(data, format!("{{\"n\":{}}}", steps.iter().sum::<i64>()));
    }
}
