use super::*;
use crate::mutate::Mutations;
use proptest::prelude::*;
use serde_json::{Map, Value, json, value::RawValue};
use shared_types::json::compact;

/// Any JSON of a few levels, with names that are worth a trap: dots, escapes, nothing.
pub fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        "[a-c\"~/]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            members(inner).prop_map(Value::from),
        ]
    })
}

fn members(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("[ab]|a\\.b|a~/|", values), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

/// Any object.
pub fn object() -> impl Strategy<Value = Map<String, Value>> {
    members(json())
}

fn differences(old: &Value, new: &Value) -> (Value, String) {
    let found = compare(&old.to_string(), &new.to_string());
    (serde_json::from_str(&found.diff).expect("a diff is JSON"), found.undo)
}

fn undone(new: &Value, undo: &str) -> Value {
    if undo == "[]" {
        return new.clone();
    }
    let undo =
        Mutations::parse_undo(&RawValue::from_string(undo.to_owned()).expect("JSON")).expect("operations");
    serde_json::from_str(&undo.reverse(&new.to_string()).expect("fits")).expect("JSON")
}

/// Applies a diff as a client does that knows the old state.
fn patched(old: &Value, diff: &Value) -> Value {
    let mut new = old.as_object().expect("an object").clone();
    for name in diff["removed"].as_array().expect("names") {
        new.remove(name.as_str().expect("a name"));
    }
    for (path, change) in diff["changed"].as_object().expect("changes") {
        let parts: Vec<&str> = if new.contains_key(path) { vec![path] } else { path.split('.').collect() };
        let (last, way) = parts.split_last().expect("at least one part");
        let parent = way.iter().fold(&mut new, |at, part| at[*part].as_object_mut().expect("an object"));
        match change.get("to") {
            Some(value) => drop(parent.insert((*last).to_owned(), value.clone())),
            None => drop(parent.remove(*last)),
        }
    }
    new.extend(diff["added"].as_object().expect("members").clone());
    Value::from(new)
}

#[test]
fn shared_vectors() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        name: String,
        old: Box<RawValue>,
        new: Box<RawValue>,
        diff: Box<RawValue>,
    }
    let text = include_str!("../../../../testdata/sync-diff.json");
    let vectors: Vec<Vector> = serde_json::from_str(text).expect("vectors");
    assert!(vectors.len() > 15);
    for Vector { name, old, new, diff } in vectors {
        let text = |raw: &RawValue| compact(raw.get(), "data").expect("valid");
        assert_eq!(compare(&text(&old), &text(&new)).diff, text(&diff), "{name}");
    }
}

/// A hundred levels around half a megabyte: each level is looked at a fixed number of times.
#[test]
fn deep_documents_are_compared_in_time() {
    let deep = |leaf: &str| {
        format!(
            "{}{{\"x\":\"{}\",\"y\":{leaf}}}{}",
            "{\"a\":".repeat(98),
            "x".repeat(500_000),
            "}".repeat(98)
        )
    };
    let begun = std::time::Instant::now();
    let found = compare(&deep("1"), &deep("2"));
    let path = vec!["a"; 98].join(".") + ".y";
    let changed =
        format!("{{\"added\":{{}},\"removed\":[],\"changed\":{{\"{path}\":{{\"from\":1,\"to\":2}}}}}}");
    assert_eq!(found.diff, changed);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn of_equal_names_the_last_one_counts_wherever_it_stands() {
    let cases = [
        (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":1,"b":2}"#, r#"{"a":{"from":3,"to":1}}"#),
        (r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2,"a":3}"#, r#"{"a":{"from":1,"to":3}}"#),
        (r#"{"a":1,"a":2,"c":0}"#, r#"{"a":5,"a":2,"c":0}"#, "{}"),
        (r#"{"a":1,"a":2,"c":0}"#, r#"{"a":1,"a":2,"c":1}"#, r#"{"c":{"from":0,"to":1}}"#),
    ];
    for (old, new, changed) in cases {
        let expected = format!(r#"{{"added":{{}},"removed":[],"changed":{changed}}}"#);
        assert_eq!(compare(old, new).diff, expected, "{old} {new}");
    }
}

#[test]
fn a_dotted_name_beside_a_change_is_heeded() {
    let (old, new) = (r#"{"a.b":1,"a":{"b":1}}"#, r#"{"a.b":1,"a":{"b":2}}"#);
    let expected = r#"{"added":{},"removed":[],"changed":{"a":{"from":{"b":1},"to":{"b":2}}}}"#;
    assert_eq!(compare(old, new).diff, expected);
}

#[test]
fn undo_names_members_by_pointer() {
    let found = compare(r#"{"a":{"b.c":1,"d/e":1.0},"x":[1]}"#, r#"{"a":{"b.c":2,"d/e":1.0},"y":null}"#);
    assert_eq!(
        found.undo,
        r#"[{"op":"set","path":"/a","value":{"b.c":1,"d/e":1.0}},{"op":"unset","path":"/y"},{"op":"set","path":"/x","value":[1]}]"#
    );
}

proptest! {
    #[test]
    fn a_diff_leads_from_old_to_new_and_its_undo_back(old in object(), new in object()) {
        let (old, new) = (Value::from(old), Value::from(new));
        let (diff, undo) = differences(&old, &new);
        prop_assert_eq!(patched(&old, &diff), new.clone());
        prop_assert_eq!(undone(&new, &undo), old);
    }

    #[test]
    fn small_changes_of_deep_objects(data in object(), path in "(/[ab]){1,3}", value in json()) {
        let old = Value::from(data);
        let mutation = json!([{ "op": "set", "path": path, "value": value }]).to_string();
        let mutation = Mutations::parse(&RawValue::from_string(mutation).expect("JSON")).expect("an operation");
        if let Ok(new) = mutation.apply(&old.to_string()) {
            let new: Value = serde_json::from_str(&new).expect("JSON");
            let (diff, undo) = differences(&old, &new);
            prop_assert_eq!(patched(&old, &diff), new.clone());
            prop_assert_eq!(undone(&new, &undo), old);
        }
    }

    #[test]
    fn what_is_equal_has_no_diff(data in object()) {
        let value = Value::from(data);
        prop_assert_eq!(
            differences(&value, &value).0,
            json!({ "added": {}, "removed": [], "changed": {} })
        );
    }

    #[test]
    fn merge_takes_what_the_patch_says_and_keeps_the_rest(old in object(), patch in object()) {
        fn expected(old: &Value, patch: &Value) -> Value {
            match (old, patch) {
                (Value::Object(old), Value::Object(patch)) => {
                    let mut merged = old.clone();
                    for (name, value) in patch {
                        let value = old.get(name).map_or_else(|| value.clone(), |before| expected(before, value));
                        merged.insert(name.clone(), value);
                    }
                    Value::from(merged)
                }
                _ => patch.clone(),
            }
        }
        let (old, patch) = (Value::from(old), Value::from(patch));
        let merged = crate::merge(&old.to_string(), &patch.to_string());
        prop_assert_eq!(serde_json::from_str::<Value>(&merged).expect("JSON"), expected(&old, &patch));
    }
}
