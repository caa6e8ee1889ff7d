//! What a mapping would make of a row change that is given as JSON.

use cdc::{
    evaluate::{CompiledMapping, Decision},
    row::{Cell, Column, OldRow, Relation, RowChange},
    values::Kind,
};
use serde_json::{Map, Value, json};
use shared_types::{Operation, Problem, json::compact, mapping::MappingDefinition};
use std::collections::BTreeMap;

type Row = Map<String, Value>;

/// Evaluates `definition` against a change: `{ fires, event, reason }`.
///
/// `row` is the row after an insert or update and before a delete. Where `old` is absent the stream is taken
/// to hold nothing of the row before an update, as with the default replica identity.
///
/// # Errors
/// `VALIDATION_FAILED` for an old row where there can be none.
pub(super) fn preview(
    definition: &MappingDefinition,
    operation: Operation,
    row: &Row,
    old: Option<&Row>,
) -> Result<Value, Problem> {
    if old.is_some() && operation != Operation::Update {
        return Err(Problem::field("old", "only an update has one; row is the deleted row of a delete"));
    }
    let relation = relation(definition, row, old);
    let (texts, old_texts) = (texts(&relation, row), old.map(|old| texts(&relation, old)));
    let given = cells(&texts);
    let before = old_texts.as_deref().map(cells);
    let change = match operation {
        Operation::Delete => {
            RowChange { relation: &relation, operation, new: &[], old: OldRow::Full(&given) }
        }
        Operation::Insert | Operation::Update => {
            let old = before.as_deref().map_or(OldRow::None, OldRow::Full);
            RowChange { relation: &relation, operation, new: &given, old }
        }
    };
    Ok(match CompiledMapping::new(definition, &relation).evaluate(&change) {
        Decision::Fires { payload, metadata } => fires(definition, operation, payload.as_str(), &metadata)?,
        Decision::Filtered(filtered) => json!({ "fires": false, "event": null, "reason": filtered.reason() }),
        Decision::Failed(reason) => json!({ "fires": false, "event": null, "reason": reason }),
    })
}

fn fires(
    definition: &MappingDefinition,
    operation: Operation,
    payload: &str,
    metadata: &str,
) -> Result<Value, Problem> {
    let value = |text: &str| serde_json::from_str::<Value>(text).map_err(|_| Problem::internal());
    Ok(json!({
        "fires": true,
        "event": {
            "topic": definition.topic.as_str(),
            "source": "database",
            "type": format!("database.{operation}"),
            "payload": value(payload)?,
            "metadata": value(&format!("{{{metadata}}}"))?,
        },
        "reason": "the mapping fires",
    }))
}

/// A table with a column for each name that either row holds, of the type that its value shows.
fn relation(definition: &MappingDefinition, row: &Row, old: Option<&Row>) -> Relation {
    let mut kinds: BTreeMap<&String, Kind> = BTreeMap::new();
    for (name, value) in old.into_iter().flatten().chain(row) {
        let kind = kind(value);
        // A null says nothing of the type: what the other row shows stays.
        if !value.is_null() || !kinds.contains_key(name) {
            kinds.insert(name, kind);
        }
    }
    let columns = kinds.into_iter().map(|(name, kind)| Column { name: name.clone(), kind, key: false });
    Relation { oid: 0, table: definition.table.clone(), columns: columns.collect() }
}

fn kind(value: &Value) -> Kind {
    match value {
        Value::Bool(_) => Kind::Bool,
        Value::Number(number) if number.is_f64() => Kind::Float,
        Value::Number(_) => Kind::Integer,
        Value::Array(_) | Value::Object(_) => Kind::Json,
        Value::String(_) | Value::Null => Kind::Text,
    }
}

/// The texts that the stream would hold; `None` for null. Columns that the row does not hold are left out.
fn texts(relation: &Relation, row: &Row) -> Vec<Option<Option<String>>> {
    let text = |value: &Value, kind: &Kind| match value {
        Value::Null => None,
        Value::Bool(true) => Some("t".to_owned()),
        Value::Bool(false) => Some("f".to_owned()),
        Value::String(text) if *kind == Kind::Json => Some(Value::from(text.as_str()).to_string()),
        Value::String(text) => Some(text.clone()),
        other => Some(compact(&other.to_string(), "value").unwrap_or_default()),
    };
    relation
        .columns
        .iter()
        .map(|column| row.get(&column.name).map(|value| text(value, &column.kind)))
        .collect()
}

fn cells(texts: &[Option<Option<String>>]) -> Vec<Cell<'_>> {
    let mut cells = Vec::with_capacity(texts.len());
    for text in texts {
        cells.push(match text {
            None => Cell::Unchanged,
            Some(None) => Cell::Null,
            Some(Some(text)) => Cell::Text(text.as_bytes()),
        });
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Row {
        value.as_object().expect("an object").clone()
    }

    fn mapping(when: Value) -> MappingDefinition {
        let value = json!({
            "table": "sessions", "topic": "session.status", "events": ["insert", "update", "delete"],
            "payload": { "id": "$row.id", "status": "$row.status" }, "when": when,
        });
        MappingDefinition::parse(&value).expect("valid")
    }

    #[test]
    fn a_change_fires_or_says_why_not() {
        let mapping = mapping(json!({ "changed": "status" }));
        let row = object(json!({ "id": 7, "status": "ended", "score": 1.5, "tags": ["a"] }));
        let same = preview(&mapping, Operation::Update, &row, Some(&row)).expect("evaluates");
        assert_eq!(same["fires"], false);
        assert!(same["reason"].as_str().is_some_and(|reason| reason.starts_with("when")));
        let old = object(json!({ "id": 7, "status": "active", "score": 1.5, "tags": ["a"] }));
        let changed = preview(&mapping, Operation::Update, &row, Some(&old)).expect("evaluates");
        assert_eq!(changed["event"]["payload"], json!({ "id": 7, "status": "ended" }));
        assert_eq!(changed["event"]["type"], "database.update");
        assert!(preview(&mapping, Operation::Insert, &row, Some(&old)).is_err());
    }

    #[test]
    fn a_column_that_is_not_there_is_named() {
        let row = object(json!({ "id": 7 }));
        let misfit = preview(&mapping(json!({ "changed": "state" })), Operation::Update, &row, None)
            .expect("evaluates");
        assert_eq!(misfit["fires"], false);
        assert!(misfit["reason"].as_str().is_some_and(|reason| reason.contains("state")), "{misfit}");
    }
}
