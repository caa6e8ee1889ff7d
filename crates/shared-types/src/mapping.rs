//! The mapping language: which row changes become which events.
//!
//! Owns a mapping's shape, its rules and its documented JSON. Knows nothing of how a change is read or
//! evaluated: text enters by [`MappingDefinition::parse`] and leaves by [`MappingDefinition::to_json`].

mod condition;
mod template;

pub use condition::{Comparison, Condition, MAX_CONDITION_DEPTH, MAX_CONDITIONS, MAX_IN_VALUES, Operand};
pub use template::{MAX_TEMPLATE_DEPTH, MAX_TEMPLATE_NODES, Reference, RowSide, Template};

use crate::{
    error::{Problem, Violation},
    event::Operation,
    topic::TopicName,
};
use serde_json::{Map, Value, json};
use std::{fmt, str::FromStr, sync::Arc};

/// The most bytes of a mapping as JSON.
pub const MAX_MAPPING_BYTES: usize = 64 * 1024;
/// The most trigger columns.
pub const MAX_TRIGGER_COLUMNS: usize = 100;
/// The longest name of a schema, table or column, in bytes: what Postgres keeps of a name.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

const FIELDS: [&str; 6] = ["table", "topic", "events", "triggerColumns", "when", "payload"];
/// Members of the mapping *resource* that its definition does not hold.
const RESOURCE_FIELDS: [&str; 2] = ["id", "environment"];

/// A table by schema and name, case kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema; `public` where none was written.
    pub schema: Arc<str>,
    /// The table.
    pub name: Arc<str>,
}

impl TableName {
    /// The table `name` of `schema`.
    pub fn new(schema: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    /// `orders`, or `sales.orders` outside the schema `public`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.schema != "public" {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for TableName {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if !is_identifier(schema) || !is_identifier(name) {
            let rule =
                "must be table or schema.table, each part 1 to 63 bytes without a dot or control characters";
            return Err(Problem::field("table", rule));
        }
        Ok(Self::new(schema, name))
    }
}

/// What a mapping says, without its id and scope.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingDefinition {
    /// Whose row changes it looks at.
    pub table: TableName,
    /// Where its events go.
    pub topic: TopicName,
    /// Which operations it looks at, each once, in the order insert, update, delete.
    pub events: Vec<Operation>,
    /// An update fires only where one of these changed; empty: whichever changed.
    pub trigger_columns: Vec<Arc<str>>,
    /// When it fires.
    pub when: Option<Condition>,
    /// What the events say; always a [`Template::Object`].
    pub payload: Template,
}

impl MappingDefinition {
    /// Reads a mapping as it is written. The members `id` and `environment` belong to the resource and are
    /// passed over.
    ///
    /// # Errors
    /// `VALIDATION_FAILED` with every broken rule and its path (`when.and[1].eq`); `LIMIT_EXCEEDED` (413) for
    /// more than [`MAX_MAPPING_BYTES`].
    pub fn parse(value: &Value) -> Result<Self, Problem> {
        if value.to_string().len() > MAX_MAPPING_BYTES {
            let message = format!("mapping: at most {MAX_MAPPING_BYTES} bytes");
            return Err(Problem::new(crate::ErrorKind::TooLarge, "LIMIT_EXCEEDED", message));
        }
        let Value::Object(object) = value else {
            return Err(Problem::field("", "a mapping must be a JSON object"));
        };
        let mut broken = Broken::default();
        for name in object.keys() {
            if !FIELDS.contains(&name.as_str()) && !RESOURCE_FIELDS.contains(&name.as_str()) {
                broken.rule(name, "is not a member of a mapping");
            }
        }
        let table = table(object, &mut broken);
        let topic = topic(object, &mut broken);
        let events = events(object, &mut broken);
        let trigger_columns = trigger_columns(object, &mut broken);
        let when = present(object, "when").and_then(|when| Condition::parse(when, "when", &mut broken));
        let payload = payload(object, &mut broken);
        match (table, topic, payload) {
            (Some(table), Some(topic), Some(payload)) if broken.0.is_empty() => {
                Ok(Self { table, topic, events, trigger_columns, when, payload })
            }
            _ => Err(Problem::fields(broken.0)),
        }
    }

    /// This mapping with the members of `patch` in place of its own; `null` removes an optional one.
    ///
    /// # Errors
    /// As [`MappingDefinition::parse`].
    pub fn patched(&self, patch: &Value) -> Result<Self, Problem> {
        let (Value::Object(mut merged), Value::Object(changes)) = (self.to_json(), patch) else {
            return Err(Problem::field("", "a change to a mapping must be a JSON object"));
        };
        for (name, value) in changes {
            merged.insert(name.clone(), value.clone());
        }
        Self::parse(&Value::Object(merged))
    }

    /// The documented JSON.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("table".into(), json!(self.table.to_string()));
        object.insert("topic".into(), json!(self.topic.as_str()));
        object.insert("events".into(), json!(self.events));
        if !self.trigger_columns.is_empty() {
            let columns = self.trigger_columns.iter().map(|c| json!(&**c)).collect();
            object.insert("triggerColumns".into(), Value::Array(columns));
        }
        if let Some(when) = &self.when {
            object.insert("when".into(), when.to_json());
        }
        object.insert("payload".into(), self.payload.to_json());
        Value::Object(object)
    }

    /// Whether its evaluation asks for the whole row as it was before the change: for `changed` or
    /// `triggerColumns` on an update, or for `$old`. `$row` on a delete does not: it is the old row as far as
    /// the stream tells it.
    pub fn needs_old_row(&self) -> bool {
        let updates = self.events.contains(&Operation::Update);
        let deletes = self.events.contains(&Operation::Delete);
        let compares =
            !self.trigger_columns.is_empty() || self.when.as_ref().is_some_and(Condition::uses_changed);
        let old = self.payload.any(&|r| r.side == RowSide::Old)
            || self.when.as_ref().is_some_and(|when| when.any(&|r| r.side == RowSide::Old));
        (updates && compares) || ((updates || deletes) && old)
    }
}

/// Every rule that was broken, each at its path.
#[derive(Default)]
pub(crate) struct Broken(Vec<Violation>);

impl Broken {
    pub(crate) fn rule(&mut self, path: &str, rule: impl Into<String>) {
        // A mapping can be wrong in thousands of places; nobody reads more than this many.
        if self.0.len() < 50 {
            self.0.push(Violation::new(path, rule));
        }
    }
}

/// The member `name`, where it is there and not null.
fn present<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn table(object: &Map<String, Value>, broken: &mut Broken) -> Option<TableName> {
    match present(object, "table") {
        Some(Value::String(text)) => match text.parse() {
            Ok(table) => return Some(table),
            Err(problem) => broken.0.extend(problem.details),
        },
        Some(_) => broken.rule("table", "must be a text"),
        None => broken.rule("table", "is required"),
    }
    None
}

fn topic(object: &Map<String, Value>, broken: &mut Broken) -> Option<TopicName> {
    match present(object, "topic") {
        Some(Value::String(text)) => match TopicName::parse(text) {
            Ok(topic) if !topic.as_str().starts_with("sync.") => return Some(topic),
            Ok(_) => broken.rule("topic", "may not begin with sync., which belongs to documents"),
            Err(_) => broken.rule("topic", "must match ^[A-Za-z0-9._:-]{1,255}$"),
        },
        Some(_) => broken.rule("topic", "must be a text"),
        None => broken.rule("topic", "is required"),
    }
    None
}

fn events(object: &Map<String, Value>, broken: &mut Broken) -> Vec<Operation> {
    let mut found = Vec::new();
    match present(object, "events") {
        Some(Value::Array(list)) if list.is_empty() => {
            broken.rule("events", "must hold at least one operation")
        }
        Some(Value::Array(list)) => {
            for (i, value) in list.iter().enumerate() {
                match serde_json::from_value::<Operation>(value.clone()) {
                    Ok(operation) => found.push(operation),
                    Err(_) => broken.rule(&format!("events[{i}]"), "must be insert, update or delete"),
                }
            }
        }
        Some(_) => broken.rule("events", "must be an array of insert, update and delete"),
        None => broken.rule("events", "is required"),
    }
    found.sort();
    found.dedup();
    found
}

fn trigger_columns(object: &Map<String, Value>, broken: &mut Broken) -> Vec<Arc<str>> {
    let path = "triggerColumns";
    let list = match present(object, path) {
        None => return Vec::new(),
        Some(Value::Array(list)) => list,
        Some(_) => {
            broken.rule(path, "must be an array of column names");
            return Vec::new();
        }
    };
    if list.is_empty() || list.len() > MAX_TRIGGER_COLUMNS {
        broken.rule(path, format!("must hold 1 to {MAX_TRIGGER_COLUMNS} columns"));
        return Vec::new();
    }
    let mut columns = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        match value.as_str().filter(|name| is_identifier(name)) {
            Some(name) => columns.push(Arc::from(name)),
            None => broken.rule(&format!("{path}[{i}]"), "must be the name of a column"),
        }
    }
    columns
}

fn payload(object: &Map<String, Value>, broken: &mut Broken) -> Option<Template> {
    match present(object, "payload") {
        Some(value @ Value::Object(_)) => return Template::parse(value, "payload", broken),
        Some(_) => broken.rule("payload", "must be an object"),
        None => broken.rule("payload", "is required"),
    }
    None
}

/// Whether `name` can be the name of a schema, table or column in a mapping.
pub(crate) fn is_identifier(name: &str) -> bool {
    (1..=MAX_IDENTIFIER_BYTES).contains(&name.len()) && !name.chars().any(|c| c == '.' || c.is_control())
}

#[cfg(test)]
mod tests;
