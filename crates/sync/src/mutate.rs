//! Mutations as clients write them: read and checked here, carried out by [`crate::operate`].

use crate::{
    node::{Kind, Node},
    operate::{TOO_MUCH, Work, operate},
    pointer::Pointer,
};
use serde_json::value::RawValue;
use shared_types::{
    Problem,
    json::{RawMembers, compact},
};

/// The most operations of one call.
pub const MAX_OPERATIONS: usize = 1_000;

/// What an operation does at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Set,
    Unset,
    Increment,
    Push,
    Pull,
    Merge,
}

impl Op {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "set" => Self::Set,
            "unset" => Self::Unset,
            "increment" => Self::Increment,
            "push" => Self::Push,
            "pull" => Self::Pull,
            "merge" => Self::Merge,
            _ => return None,
        })
    }
}

/// One operation, checked as far as it can be without a document.
#[derive(Clone, Debug)]
pub struct Operation {
    pub op: Op,
    pub at: Pointer,
    /// JSON; empty for `unset`.
    pub value: String,
}

/// Operations that apply all or none, in their order.
#[derive(Clone, Debug)]
pub struct Mutations(Vec<Operation>);

impl Mutations {
    /// Reads either form: an array of `{ op, path, value }`, or an object whose members are set at the top.
    ///
    /// # Errors
    /// `VALIDATION_FAILED` naming the operation by its index and its field, `LIMIT_EXCEEDED` (413) where there are
    /// more than [`MAX_OPERATIONS`].
    pub fn parse(raw: &RawValue) -> Result<Self, Problem> {
        let operations = match raw.get().as_bytes().first() {
            Some(b'[') => listed(raw)?,
            Some(b'{') => assigned(raw)?,
            _ => return Err(Problem::field("mutations", "must be an array of operations, or an object")),
        };
        if operations.is_empty() {
            return Err(Problem::field("mutations", "must hold at least one"));
        }
        Ok(Self(operations))
    }

    /// Reads operations that [`crate::compare()`] wrote, however many.
    pub(crate) fn parse_undo(raw: &RawValue) -> Result<Self, Problem> {
        let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(unreadable)?;
        operations(elements).map(Self)
    }

    /// Applies all operations to `data`, the text of an object.
    ///
    /// # Errors
    /// `INVALID_MUTATION` naming the first operation that does not fit the data, by its index; `LIMIT_EXCEEDED` where
    /// the operations would search or move too much.
    pub fn apply(&self, data: &str) -> Result<String, Problem> {
        self.carry_out(data, Work::bounded())
    }

    /// Applies operations that lead back to an earlier state; the order of members may change.
    pub(crate) fn reverse(&self, data: &str) -> Result<String, Problem> {
        self.carry_out(data, Work::Reversing)
    }

    fn carry_out(&self, data: &str, mut work: Work) -> Result<String, Problem> {
        let mut root = Node::of(data);
        for (index, operation) in self.0.iter().enumerate() {
            operate(&mut root, operation, &mut work).map_err(|rule| refused(index, rule))?;
        }
        Ok(root.to_text(data.len()))
    }
}

fn refused(index: usize, rule: &str) -> Problem {
    let path = format!("mutations[{index}]");
    match rule {
        TOO_MUCH => Problem::too_large(path, rule),
        _ => Problem::field_rule("INVALID_MUTATION", path, rule),
    }
}

fn check_count(count: usize) -> Result<(), Problem> {
    if count <= MAX_OPERATIONS {
        return Ok(());
    }
    Err(Problem::too_large("mutations", format!("at most {MAX_OPERATIONS} operations")))
}

fn unreadable(_: serde_json::Error) -> Problem {
    Problem::field("mutations", "must be an array of operations, or an object")
}

fn assigned(raw: &RawValue) -> Result<Vec<Operation>, Problem> {
    let members: RawMembers<'_> = serde_json::from_str(raw.get()).map_err(unreadable)?;
    check_count(members.0.len())?;
    let set = |(name, value): (std::borrow::Cow<'_, str>, &RawValue)| {
        let value = compact(value.get(), &format!("mutations.{name}"))?;
        Ok(Operation { op: Op::Set, at: Pointer::to_member(&name), value })
    };
    members.0.into_iter().map(set).collect()
}

fn listed(raw: &RawValue) -> Result<Vec<Operation>, Problem> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(unreadable)?;
    check_count(elements.len())?;
    operations(elements)
}

fn operations(elements: Vec<&RawValue>) -> Result<Vec<Operation>, Problem> {
    elements.into_iter().enumerate().map(|(index, element)| operation(index, element)).collect()
}

fn operation(index: usize, raw: &RawValue) -> Result<Operation, Problem> {
    let field = |name: &str, rule: &str| Problem::field(format!("mutations[{index}]{name}"), rule);
    let members: RawMembers<'_> =
        serde_json::from_str(raw.get()).map_err(|_| field("", "must be an object { op, path, value }"))?;
    let (mut op, mut path, mut value) = (None, None, None);
    for (name, member) in &members.0 {
        match name.as_ref() {
            "op" => op = Some(*member),
            "path" => path = Some(*member),
            "value" => value = Some(*member),
            other => return Err(field(&format!(".{other}"), "is not a known field")),
        }
    }
    let text = |raw: Option<&RawValue>, name: &str| {
        let raw = raw.ok_or_else(|| field(name, "is required"))?;
        serde_json::from_str::<String>(raw.get()).map_err(|_| field(name, "must be a string"))
    };
    let op = Op::parse(&text(op, ".op")?)
        .ok_or_else(|| field(".op", "must be set, unset, increment, push, pull or merge"))?;
    let at = Pointer::parse(&text(path, ".path")?).map_err(|rule| field(".path", rule))?;
    let value = checked_value(op, value, &at).map_err(|rule| field(".value", rule))?;
    if op == Op::Unset && at.parts().is_empty() {
        return Err(field(".path", "the whole document cannot be unset"));
    }
    let value = compact(&value, &format!("mutations[{index}].value"))?;
    Ok(Operation { op, at, value })
}

/// The operation's value, which must fit it.
fn checked_value(op: Op, value: Option<&RawValue>, at: &Pointer) -> Result<String, &'static str> {
    let value = match (op, value) {
        (Op::Unset, None) => return Ok(String::new()),
        (Op::Unset, Some(_)) => return Err("unset takes none"),
        (_, None) => return Err("is required"),
        (_, Some(value)) => value.get(),
    };
    match (op, Node::of(value).kind()) {
        (Op::Increment, kind) if kind != Kind::Number => Err("must be a number"),
        (Op::Merge, kind) if kind != Kind::Object => Err("must be an object"),
        (Op::Set, kind) if at.parts().is_empty() && kind != Kind::Object => {
            Err("must be an object where the whole document is set")
        }
        _ => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests;
