//! Conditions: when a mapping fires.

use super::{
    Broken, is_identifier,
    template::{MISSPELT, Reference, Text, escaped},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How deeply `and`, `or` and `not` may nest.
pub const MAX_CONDITION_DEPTH: usize = 16;
/// How many conditions one mapping may hold.
pub const MAX_CONDITIONS: usize = 200;
/// The most values of one `in`.
pub const MAX_IN_VALUES: usize = 256;

/// A comparison of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `eq`: the same value of the same type; null equals null.
    Equal,
    /// `neq`: not `eq`.
    NotEqual,
    /// `gt`.
    Greater,
    /// `gte`.
    GreaterOrEqual,
    /// `lt`.
    Less,
    /// `lte`.
    LessOrEqual,
}

impl Comparison {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Equal, "eq"),
        (Self::NotEqual, "neq"),
        (Self::Greater, "gt"),
        (Self::GreaterOrEqual, "gte"),
        (Self::Less, "lt"),
        (Self::LessOrEqual, "lte"),
    ];

    /// Its name in a mapping.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(c, _)| *c == self).map_or("eq", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(c, _)| *c)
    }
}

/// What a comparison compares.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A value of the row.
    Column(Reference),
    /// Null, a boolean, a number or a text.
    Literal(Value),
}

/// When a mapping fires.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `{ "changed": "column" }`.
    Changed(Arc<str>),
    /// `{ "eq": [operand, operand] }` and its kin.
    Compare(Comparison, Operand, Operand),
    /// `{ "in": [operand, [literal, …]] }`.
    In(Operand, Vec<Value>),
    /// `{ "isNull": "$row.column" }`.
    IsNull(Reference),
    /// `{ "and": [condition, …] }`.
    And(Vec<Condition>),
    /// `{ "or": [condition, …] }`.
    Or(Vec<Condition>),
    /// `{ "not": condition }`.
    Not(Box<Condition>),
}

impl Condition {
    pub(crate) fn parse(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        let mut count = 0;
        let condition = Self::parse_node(value, path, 1, &mut count, broken);
        if count > MAX_CONDITIONS {
            broken.rule(path, format!("may hold at most {MAX_CONDITIONS} conditions"));
            return None;
        }
        condition
    }

    fn parse_node(
        value: &Value,
        path: &str,
        depth: usize,
        count: &mut usize,
        broken: &mut Broken,
    ) -> Option<Self> {
        *count += 1;
        if depth > MAX_CONDITION_DEPTH {
            broken.rule(path, format!("nests deeper than {MAX_CONDITION_DEPTH}"));
            return None;
        }
        let member = value.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next());
        let Some((operator, argument)) = member else {
            broken.rule(path, "must be an object with exactly one operator");
            return None;
        };
        let path = format!("{path}.{operator}");
        match operator.as_str() {
            "and" | "or" => {
                let list = Self::parse_list(argument, &path, depth, count, broken)?;
                Some(if operator == "and" { Self::And(list) } else { Self::Or(list) })
            }
            "not" => {
                Self::parse_node(argument, &path, depth + 1, count, broken).map(|c| Self::Not(Box::new(c)))
            }
            "changed" => Self::parse_changed(argument, &path, broken),
            "isNull" => Self::parse_is_null(argument, &path, broken),
            "in" => Self::parse_in(argument, &path, broken),
            name => match Comparison::named(name) {
                Some(comparison) => Self::parse_compare(comparison, argument, &path, broken),
                None => {
                    let rule =
                        "is no operator (changed, eq, neq, gt, gte, lt, lte, in, isNull, and, or, not)";
                    broken.rule(&path, rule);
                    None
                }
            },
        }
    }

    fn parse_list(
        value: &Value,
        path: &str,
        depth: usize,
        count: &mut usize,
        broken: &mut Broken,
    ) -> Option<Vec<Self>> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            broken.rule(path, "must be an array of at least one condition");
            return None;
        };
        let mut parsed = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            parsed.extend(Self::parse_node(value, &format!("{path}[{i}]"), depth + 1, count, broken));
        }
        Some(parsed)
    }

    fn parse_changed(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        match value.as_str().filter(|name| is_identifier(name)) {
            Some(name) => Some(Self::Changed(name.into())),
            None => {
                broken.rule(path, "must be the name of a column");
                None
            }
        }
    }

    fn parse_is_null(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        match value.as_str().map(Reference::read) {
            Some(Text::Reference(reference)) => Some(Self::IsNull(reference)),
            _ => {
                broken.rule(path, "must be $row.column or $old.column");
                None
            }
        }
    }

    fn parse_compare(comparison: Comparison, value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        let Some([left, right]) = value.as_array().map(Vec::as_slice) else {
            broken.rule(path, "must be an array of two operands");
            return None;
        };
        let left = Operand::parse(left, &format!("{path}[0]"), broken);
        let right = Operand::parse(right, &format!("{path}[1]"), broken);
        let (left, right) = (left?, right?);
        if matches!((&left, &right), (Operand::Literal(_), Operand::Literal(_))) {
            broken.rule(path, "must compare with at least one column ($row.column or $old.column)");
            return None;
        }
        Some(Self::Compare(comparison, left, right))
    }

    fn parse_in(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        let Some([operand, Value::Array(list)]) = value.as_array().map(Vec::as_slice) else {
            broken.rule(path, "must be [$row.column, [value, …]]");
            return None;
        };
        let operand = match Operand::parse(operand, &format!("{path}[0]"), broken)? {
            column @ Operand::Column(_) => column,
            Operand::Literal(_) => {
                broken.rule(&format!("{path}[0]"), "must be $row.column or $old.column");
                return None;
            }
        };
        if list.is_empty() || list.len() > MAX_IN_VALUES {
            broken.rule(&format!("{path}[1]"), format!("must hold 1 to {MAX_IN_VALUES} values"));
            return None;
        }
        let mut values = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            match Operand::parse(value, &format!("{path}[1][{i}]"), broken)? {
                Operand::Literal(value) => values.push(value),
                Operand::Column(_) => {
                    broken.rule(&format!("{path}[1][{i}]"), "must be a literal, not a column");
                    return None;
                }
            }
        }
        Some(Self::In(operand, values))
    }

    /// The documented JSON.
    pub fn to_json(&self) -> Value {
        let list = |list: &[Self]| Value::Array(list.iter().map(Self::to_json).collect());
        let (operator, argument) = match self {
            Self::Changed(column) => ("changed", json!(&**column)),
            Self::Compare(comparison, left, right) => {
                (comparison.name(), Value::Array(vec![left.to_json(), right.to_json()]))
            }
            Self::In(operand, values) => {
                let values = values.iter().map(literal_json).collect();
                ("in", Value::Array(vec![operand.to_json(), Value::Array(values)]))
            }
            Self::IsNull(reference) => ("isNull", json!(reference.to_string())),
            Self::And(conditions) => ("and", list(conditions)),
            Self::Or(conditions) => ("or", list(conditions)),
            Self::Not(condition) => ("not", condition.to_json()),
        };
        Value::Object(Map::from_iter([(operator.to_owned(), argument)]))
    }

    /// Whether `changed` occurs in it.
    pub fn uses_changed(&self) -> bool {
        match self {
            Self::Changed(_) => true,
            Self::And(list) | Self::Or(list) => list.iter().any(Self::uses_changed),
            Self::Not(condition) => condition.uses_changed(),
            Self::Compare(..) | Self::In(..) | Self::IsNull(_) => false,
        }
    }

    /// Whether `test` holds for any reference in it.
    pub fn any(&self, test: &dyn Fn(&Reference) -> bool) -> bool {
        let column = |operand: &Operand| matches!(operand, Operand::Column(r) if test(r));
        match self {
            Self::Changed(_) => false,
            Self::Compare(_, left, right) => column(left) || column(right),
            Self::In(operand, _) => column(operand),
            Self::IsNull(reference) => test(reference),
            Self::And(list) | Self::Or(list) => list.iter().any(|c| c.any(test)),
            Self::Not(condition) => condition.any(test),
        }
    }
}

impl Operand {
    fn parse(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        match value {
            Value::String(text) => match Reference::read(text) {
                Text::Reference(reference) => return Some(Self::Column(reference)),
                Text::Literal(literal) => return Some(Self::Literal(Value::String(literal.to_owned()))),
                Text::Misspelt => broken.rule(path, MISSPELT),
            },
            Value::Array(_) | Value::Object(_) => {
                broken.rule(path, "must be a column or null, a boolean, a number or a text");
            }
            scalar => return Some(Self::Literal(scalar.clone())),
        }
        None
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Column(reference) => json!(reference.to_string()),
            Self::Literal(value) => literal_json(value),
        }
    }
}

fn literal_json(value: &Value) -> Value {
    match value {
        Value::String(text) => escaped(text),
        other => other.clone(),
    }
}
