//! Payload templates: JSON in which `"$row.column"` stands for a value of the changed row.

use super::{Broken, is_identifier};
use serde_json::{Map, Value};
use std::{fmt, sync::Arc};

/// How deeply a template may nest.
pub const MAX_TEMPLATE_DEPTH: usize = 16;
/// How many members, elements and values a template may hold.
pub const MAX_TEMPLATE_NODES: usize = 500;

/// Which of the two rows of a change a reference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowSide {
    /// `$row`: the row after the change; on a delete, the row that was.
    Row,
    /// `$old`: the row before the change.
    Old,
}

/// `$row.column` or `$old.column`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Which row.
    pub side: RowSide,
    /// Which column, case kept.
    pub column: Arc<str>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            RowSide::Row => "$row",
            RowSide::Old => "$old",
        };
        write!(f, "{side}.{}", self.column)
    }
}

/// What a text in a mapping means.
pub(crate) enum Text<'t> {
    Reference(Reference),
    Literal(&'t str),
    /// It looks like a reference, but is none.
    Misspelt,
}

impl Reference {
    /// Reads a text: `$row.x` and `$old.x` are references, `$$…` is the literal text with one `$` less.
    pub(crate) fn read(text: &str) -> Text<'_> {
        if let Some(literal) = text.strip_prefix('$').filter(|rest| rest.starts_with('$')) {
            return Text::Literal(literal);
        }
        for (name, side) in [("$row", RowSide::Row), ("$old", RowSide::Old)] {
            if let Some(rest) = text.strip_prefix(name) {
                return match rest.strip_prefix('.').filter(|column| is_identifier(column)) {
                    Some(column) => Text::Reference(Self { side, column: column.into() }),
                    None => Text::Misspelt,
                };
            }
        }
        Text::Literal(text)
    }
}

/// How a literal text is written so that it is not read as a reference.
pub(crate) fn escaped(text: &str) -> Value {
    let taken = ["$$", "$row", "$old"].iter().any(|prefix| text.starts_with(prefix));
    Value::String(if taken { format!("${text}") } else { text.to_owned() })
}

pub(crate) const MISSPELT: &str =
    "must be $row.column or $old.column (a column's name, no path into it); write $$ for a literal $";

/// A payload, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// A value of the row.
    Reference(Reference),
    /// Null, a boolean, a number or a text as it stands.
    Literal(Value),
    /// An object; members in the order written.
    Object(Vec<(String, Template)>),
    /// An array.
    Array(Vec<Template>),
}

impl Template {
    pub(crate) fn parse(value: &Value, path: &str, broken: &mut Broken) -> Option<Self> {
        let mut nodes = 0;
        let template = Self::parse_node(value, path, 1, &mut nodes, broken);
        if nodes > MAX_TEMPLATE_NODES {
            broken.rule(path, format!("may hold at most {MAX_TEMPLATE_NODES} members and elements"));
            return None;
        }
        template
    }

    fn parse_node(
        value: &Value,
        path: &str,
        depth: usize,
        nodes: &mut usize,
        broken: &mut Broken,
    ) -> Option<Self> {
        *nodes += 1;
        if depth > MAX_TEMPLATE_DEPTH {
            broken.rule(path, format!("nests deeper than {MAX_TEMPLATE_DEPTH}"));
            return None;
        }
        match value {
            Value::String(text) => Self::parse_text(text, path, broken),
            Value::Object(object) => {
                let mut members = Vec::with_capacity(object.len());
                for (name, value) in object {
                    let path = format!("{path}.{name}");
                    if name.contains('\0') {
                        broken.rule(&path, "may not hold NUL");
                    }
                    if let Some(node) = Self::parse_node(value, &path, depth + 1, nodes, broken) {
                        members.push((name.clone(), node));
                    }
                }
                Some(Self::Object(members))
            }
            Value::Array(list) => {
                let mut elements = Vec::with_capacity(list.len());
                for (i, value) in list.iter().enumerate() {
                    elements.extend(Self::parse_node(
                        value,
                        &format!("{path}[{i}]"),
                        depth + 1,
                        nodes,
                        broken,
                    ));
                }
                Some(Self::Array(elements))
            }
            scalar => Some(Self::Literal(scalar.clone())),
        }
    }

    fn parse_text(text: &str, path: &str, broken: &mut Broken) -> Option<Self> {
        match Reference::read(text) {
            Text::Reference(reference) => return Some(Self::Reference(reference)),
            Text::Literal(literal) if literal.contains('\0') => broken.rule(path, "may not hold NUL"),
            Text::Literal(literal) => return Some(Self::Literal(Value::String(literal.to_owned()))),
            Text::Misspelt => broken.rule(path, MISSPELT),
        }
        None
    }

    /// The documented JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Reference(reference) => Value::String(reference.to_string()),
            Self::Literal(Value::String(text)) => escaped(text),
            Self::Literal(value) => value.clone(),
            Self::Object(members) => {
                Value::Object(members.iter().map(|(n, t)| (n.clone(), t.to_json())).collect::<Map<_, _>>())
            }
            Self::Array(elements) => Value::Array(elements.iter().map(Self::to_json).collect()),
        }
    }

    /// Whether `test` holds for any reference in it.
    pub fn any(&self, test: &dyn Fn(&Reference) -> bool) -> bool {
        match self {
            Self::Reference(reference) => test(reference),
            Self::Literal(_) => false,
            Self::Object(members) => members.iter().any(|(_, t)| t.any(test)),
            Self::Array(elements) => elements.iter().any(|t| t.any(test)),
        }
    }
}
