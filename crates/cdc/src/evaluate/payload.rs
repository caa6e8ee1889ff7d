//! Payloads written straight as JSON text.

use super::compile::{Place, Resolver};
use crate::{
    row::{Known, RowChange},
    values::push_text,
};
use shared_types::mapping::{RowSide, Template};

/// A part of a payload.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// Text that does not depend on the row.
    Fixed(String),
    /// A value of the row; `path` says where in the payload it would stand.
    Value { place: Place, path: String },
    /// A column that the table does not have.
    Absent { path: String },
    /// Members, each with its name as JSON and the colon.
    Object(Vec<(String, Node)>),
    /// Elements.
    Array(Vec<Node>),
}

impl Node {
    pub(super) fn compile(template: &Template, path: &str, resolver: &mut Resolver<'_>) -> Self {
        let node = match template {
            Template::Literal(value) => return Self::Fixed(value.to_string()),
            Template::Reference(reference) => {
                let path = path.to_owned();
                return match resolver.place(reference) {
                    Some(place) => Self::Value { place, path },
                    None => Self::Absent { path },
                };
            }
            Template::Object(members) => Self::Object(
                members
                    .iter()
                    .map(|(name, template)| {
                        let mut label = String::new();
                        push_text(&mut label, name);
                        label.push(':');
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        (label, Self::compile(template, &path, resolver))
                    })
                    .collect(),
            ),
            Template::Array(elements) => Self::Array(
                elements
                    .iter()
                    .enumerate()
                    .map(|(i, template)| Self::compile(template, &format!("{path}[{i}]"), resolver))
                    .collect(),
            ),
        };
        node.folded()
    }

    /// Itself as fixed text, where no part of it depends on the row.
    fn folded(self) -> Self {
        let fixed = |node: &Self| matches!(node, Self::Fixed(_));
        let constant = match &self {
            Self::Object(members) => members.iter().all(|(_, node)| fixed(node)),
            Self::Array(elements) => elements.iter().all(fixed),
            _ => false,
        };
        if !constant {
            return self;
        }
        let mut text = String::new();
        self.write_fixed(&mut text);
        Self::Fixed(text)
    }

    fn write_fixed(&self, out: &mut String) {
        match self {
            Self::Fixed(text) => out.push_str(text),
            Self::Object(members) => list(out, ['{', '}'], members, |out, (label, node)| {
                out.push_str(label);
                node.write_fixed(out);
                true
            }),
            Self::Array(elements) => list(out, ['[', ']'], elements, |out, node| {
                node.write_fixed(out);
                true
            }),
            Self::Value { .. } | Self::Absent { .. } => {}
        }
    }

    /// Writes it for `change`. What the stream does not hold is left out and its path noted in `missing`;
    /// answers whether anything was written.
    pub(super) fn write<'n>(
        &'n self,
        out: &mut String,
        change: &RowChange<'_>,
        missing: &mut Vec<&'n str>,
    ) -> bool {
        match self {
            Self::Fixed(text) => out.push_str(text),
            Self::Absent { path } => {
                missing.push(path);
                return false;
            }
            Self::Value { place, path } => match place.known(change) {
                Known::Null => out.push_str("null"),
                Known::Text(text) => change.relation.columns[place.column].kind.write(out, text),
                Known::Unavailable { .. } => {
                    missing.push(path);
                    return false;
                }
            },
            Self::Object(members) => list(out, ['{', '}'], members, |out, (label, node)| {
                out.push_str(label);
                node.write(out, change, missing)
            }),
            Self::Array(elements) => {
                list(out, ['[', ']'], elements, |out, node| node.write(out, change, missing))
            }
        }
        true
    }
}

impl Place {
    /// Its value in `change`.
    pub(super) fn known<'a>(self, change: &RowChange<'a>) -> Known<'a> {
        match self.side {
            RowSide::Row => change.row(self.column),
            RowSide::Old => change.old(self.column),
        }
    }
}

/// Writes `items` between `brackets`; an item that writes nothing leaves no trace.
fn list<'n, T>(
    out: &mut String,
    brackets: [char; 2],
    items: &'n [T],
    mut write: impl FnMut(&mut String, &'n T) -> bool,
) {
    out.push(brackets[0]);
    let mut first = true;
    for item in items {
        let before = out.len();
        if !first {
            out.push(',');
        }
        if write(out, item) {
            first = false;
        } else {
            out.truncate(before);
        }
    }
    out.push(brackets[1]);
}
