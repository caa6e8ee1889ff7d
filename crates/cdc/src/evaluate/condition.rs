//! Conditions over a change, in a logic that knows what it does not know.

use super::{
    Truth,
    compile::{Place, Resolver},
};
use crate::{
    row::{Change, Known, RowChange},
    values::{Kind, compare_numbers},
};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::Value;
use shared_types::mapping::{Comparison, Condition, Operand};
use std::{borrow::Cow, cmp::Ordering};

/// A condition, resolved.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    Changed(usize),
    Compare(Comparison, Side, Side),
    In(Place, Vec<Literal>),
    IsNull(Place),
    And(Vec<Test>),
    Or(Vec<Test>),
    Not(Box<Test>),
    /// It names a column that is not there; the mapping fails before this is asked.
    Never,
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    Column(Place),
    Literal(Literal),
}

/// A literal of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
}

/// A value to compare.
enum Operated<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    /// Microseconds since 1970.
    Time(i64),
    /// An array or an object, which equals nothing.
    Compound,
    Unavailable,
}

impl Test {
    pub(super) fn compile(condition: &Condition, resolver: &mut Resolver<'_>) -> Self {
        let mut list =
            |conditions: &[Condition]| conditions.iter().map(|c| Self::compile(c, resolver)).collect();
        match condition {
            Condition::And(conditions) => Self::And(list(conditions)),
            Condition::Or(conditions) => Self::Or(list(conditions)),
            Condition::Not(condition) => Self::Not(Box::new(Self::compile(condition, resolver))),
            Condition::Changed(name) => resolver.column(name).map_or(Self::Never, Self::Changed),
            Condition::IsNull(reference) => resolver.place(reference).map_or(Self::Never, Self::IsNull),
            Condition::In(operand, values) => match Side::compile(operand, resolver) {
                Some(Side::Column(place)) => Self::In(place, values.iter().map(Literal::of).collect()),
                _ => Self::Never,
            },
            Condition::Compare(comparison, left, right) => {
                match (Side::compile(left, resolver), Side::compile(right, resolver)) {
                    (Some(left), Some(right)) => Self::Compare(*comparison, left, right),
                    _ => Self::Never,
                }
            }
        }
    }

    /// Whether it holds for `change`.
    pub(super) fn holds(&self, change: &RowChange<'_>) -> Truth {
        match self {
            Self::Never => Truth::False,
            Self::Changed(column) => changed(*column, change),
            Self::IsNull(place) => match place.known(change) {
                Known::Null => Truth::True,
                Known::Text(_) | Known::Unavailable { stored: true } => Truth::False,
                Known::Unavailable { stored: false } => Truth::Unavailable,
            },
            Self::In(place, values) => {
                let found = operated(*place, change);
                if matches!(found, Operated::Unavailable) {
                    return Truth::Unavailable;
                }
                truth(values.iter().any(|value| equal(&found, &value.operated())))
            }
            Self::Compare(comparison, left, right) => compare(*comparison, left, right, change),
            Self::And(tests) => all(tests.iter().map(|test| test.holds(change))),
            Self::Or(tests) => any(tests.iter().map(|test| test.holds(change))),
            Self::Not(test) => match test.holds(change) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                unknown => unknown,
            },
        }
    }
}

/// Whether one of `columns` changed.
pub(super) fn any_changed(columns: &[usize], change: &RowChange<'_>) -> Truth {
    any(columns.iter().map(|column| changed(*column, change)))
}

fn changed(column: usize, change: &RowChange<'_>) -> Truth {
    match change.changed(column) {
        Change::Changed => Truth::True,
        Change::Same => Truth::False,
        Change::Unknown => Truth::ChangedUnknown,
    }
}

fn truth(holds: bool) -> Truth {
    if holds { Truth::True } else { Truth::False }
}

/// False if one is; else what is not known prevails.
fn all(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut result = Truth::True;
    for truth in truths {
        result = match (result, truth) {
            (_, Truth::False) => return Truth::False,
            (Truth::Unavailable, _) | (_, Truth::Unavailable) => Truth::Unavailable,
            (Truth::ChangedUnknown, _) | (_, Truth::ChangedUnknown) => Truth::ChangedUnknown,
            _ => Truth::True,
        };
    }
    result
}

/// True if one is; else a possible change prevails, since it alone would fire.
fn any(truths: impl Iterator<Item = Truth>) -> Truth {
    let mut result = Truth::False;
    for truth in truths {
        result = match (result, truth) {
            (_, Truth::True) => return Truth::True,
            (Truth::ChangedUnknown, _) | (_, Truth::ChangedUnknown) => Truth::ChangedUnknown,
            (Truth::Unavailable, _) | (_, Truth::Unavailable) => Truth::Unavailable,
            _ => Truth::False,
        };
    }
    result
}

impl Side {
    fn compile(operand: &Operand, resolver: &mut Resolver<'_>) -> Option<Self> {
        match operand {
            Operand::Column(reference) => resolver.place(reference).map(Self::Column),
            Operand::Literal(value) => Some(Self::Literal(Literal::of(value))),
        }
    }

    fn operated<'a>(&'a self, change: &RowChange<'a>) -> Operated<'a> {
        match self {
            Self::Column(place) => operated(*place, change),
            Self::Literal(literal) => literal.operated(),
        }
    }
}

impl Literal {
    fn of(value: &Value) -> Self {
        match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.to_string()),
            Value::String(text) => Self::Text(text.clone()),
            // Parsing admits no arrays and objects here.
            Value::Null | Value::Array(_) | Value::Object(_) => Self::Null,
        }
    }

    fn operated(&self) -> Operated<'_> {
        match self {
            Self::Null => Operated::Null,
            Self::Bool(value) => Operated::Bool(*value),
            Self::Number(text) => Operated::Number(Cow::Borrowed(text)),
            Self::Text(text) => Operated::Text(Cow::Borrowed(text)),
        }
    }
}

fn operated<'a>(place: Place, change: &RowChange<'a>) -> Operated<'a> {
    let text = match place.known(change) {
        Known::Null => return Operated::Null,
        Known::Unavailable { .. } => return Operated::Unavailable,
        Known::Text(text) => text,
    };
    let kind = &change.relation.columns[place.column].kind;
    let comparable = kind.comparable(text);
    match kind {
        Kind::Bool => Operated::Bool(comparable == "t" || comparable == "true"),
        Kind::Integer | Kind::Float | Kind::Numeric => match compare_numbers(&comparable, "0") {
            Some(_) => Operated::Number(comparable),
            None => Operated::Text(comparable),
        },
        Kind::Timestamp | Kind::TimestampTz | Kind::Date => match microseconds(&comparable) {
            Some(time) => Operated::Time(time),
            None => Operated::Text(comparable),
        },
        Kind::Json => match serde_json::from_str(&comparable) {
            Ok(Value::Null) => Operated::Null,
            Ok(Value::Bool(value)) => Operated::Bool(value),
            Ok(Value::Number(number)) => Operated::Number(Cow::Owned(number.to_string())),
            Ok(Value::String(text)) => Operated::Text(Cow::Owned(text)),
            Ok(Value::Array(_) | Value::Object(_)) => Operated::Compound,
            Err(_) => Operated::Text(comparable),
        },
        Kind::Array(_) => Operated::Compound,
        Kind::Bytes | Kind::Text => Operated::Text(comparable),
    }
}

/// A date, or a time of a day with or without a zone (UTC without), in microseconds since 1970.
fn microseconds(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_micros());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

fn compare(comparison: Comparison, left: &Side, right: &Side, change: &RowChange<'_>) -> Truth {
    let (left, right) = (left.operated(change), right.operated(change));
    if matches!(left, Operated::Unavailable) || matches!(right, Operated::Unavailable) {
        return Truth::Unavailable;
    }
    truth(match comparison {
        Comparison::Equal => equal(&left, &right),
        Comparison::NotEqual => !equal(&left, &right),
        Comparison::Greater => order(&left, &right) == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order(&left, &right).is_some_and(Ordering::is_ge),
        Comparison::Less => order(&left, &right) == Some(Ordering::Less),
        Comparison::LessOrEqual => order(&left, &right).is_some_and(Ordering::is_le),
    })
}

/// The same value of the same type; null equals null.
fn equal(left: &Operated<'_>, right: &Operated<'_>) -> bool {
    match (left, right) {
        (Operated::Null, Operated::Null) => true,
        (Operated::Bool(left), Operated::Bool(right)) => left == right,
        _ => order(left, right) == Some(Ordering::Equal),
    }
}

/// How two values stand; `None` where they are of different types or have no order.
fn order(left: &Operated<'_>, right: &Operated<'_>) -> Option<Ordering> {
    match (left, right) {
        (Operated::Number(left), Operated::Number(right)) => compare_numbers(left, right),
        (Operated::Text(left), Operated::Text(right)) => Some(left.cmp(right)),
        (Operated::Time(left), Operated::Time(right)) => Some(left.cmp(right)),
        (Operated::Time(left), Operated::Text(right)) => Some(left.cmp(&microseconds(right)?)),
        (Operated::Text(left), Operated::Time(right)) => Some(microseconds(left)?.cmp(right)),
        _ => None,
    }
}
