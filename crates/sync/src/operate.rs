//! What each operation does to a tree. What does not fit is answered by the rule that it breaks.

use crate::{
    merge::merge_into,
    mutate::{Op, Operation},
    node::{Kind, Node, Numbers, same},
};
use std::borrow::Cow;

type Rule = &'static str;

/// What the operations of a call may cost: about the bytes that they look at, beyond finding their places. Most cost
/// next to nothing; a thousand that each search a large array would hold up everybody else.
const WORK: usize = 32 << 20;
/// What moving one element costs.
const MOVING: usize = 8;
/// What looking into one value costs, beside its bytes.
const LOOKING: usize = 64;

/// What operations may cost, and whether it matters in which order the members of objects stand afterwards.
pub enum Work {
    /// A client's: so much is left of it, and members keep their order.
    Bounded(usize),
    /// Our own, on the way back to an earlier revision: as many as the revision changed, none of which searches.
    Reversing,
}

impl Work {
    /// What a client's call may cost.
    pub fn bounded() -> Self {
        Self::Bounded(WORK)
    }

    fn spend(&mut self, cost: usize) -> Result<(), Rule> {
        if let Self::Bounded(left) = self {
            *left = left.checked_sub(cost).ok_or(TOO_MUCH)?;
        }
        Ok(())
    }
}

const NO_CONTAINER: Rule = "the path leads through something that is neither an object nor an array";
const NO_INDEX: Rule = "the path names an element of an array that is not there";
const NO_ARRAY: Rule = "what stands at the path is not an array";
const NO_NUMBER: Rule = "what stands at the path is not a number";
const NO_OBJECT: Rule = "what stands at the path is not an object";
/// The rule whose breach is a limit.
pub const TOO_MUCH: Rule = "the operations search or move too much of the document for one call";
const NO_SUM: Rule = "the sum is a number that no 64-bit float can hold";

/// Carries out one operation.
pub fn operate<'a>(root: &mut Node<'a>, operation: &'a Operation, work: &mut Work) -> Result<(), Rule> {
    let (parts, value) = (operation.at.parts(), Node::of(&operation.value));
    match operation.op {
        Op::Set => set(root, parts, value),
        Op::Unset => unset(root, parts, work),
        Op::Increment => match find(root, parts)? {
            Some(target) => increment(target, &operation.value),
            None => set(root, parts, value),
        },
        Op::Push => match find(root, parts)? {
            Some(target) => {
                target.elements_mut().ok_or(NO_ARRAY)?.push(value);
                Ok(())
            }
            None => set(root, parts, Node::Array(vec![value])),
        },
        Op::Pull => match find(root, parts)? {
            Some(target) => pull(target.elements_mut().ok_or(NO_ARRAY)?, value, work),
            None => Ok(()),
        },
        Op::Merge => match find(root, parts)? {
            Some(target) if target.kind() != Kind::Object => Err(NO_OBJECT),
            Some(target) => {
                merge_into(target, value);
                Ok(())
            }
            None => set(root, parts, value),
        },
    }
}

/// What stands at the path; `None` where nothing does.
fn find<'n, 'a>(root: &'n mut Node<'a>, parts: &[String]) -> Result<Option<&'n mut Node<'a>>, Rule> {
    let mut at = root;
    for part in parts {
        at.unfold();
        let next = match at {
            Node::Object(members) => members.get_mut(part.as_str()),
            Node::Array(elements) => index(part).and_then(|index| elements.get_mut(index)),
            Node::Raw(_) => return Err(NO_CONTAINER),
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Puts a value at the path, making the objects that are missing on the way.
fn set<'a>(root: &mut Node<'a>, parts: &'a [String], value: Node<'a>) -> Result<(), Rule> {
    let Some((last, way)) = parts.split_last() else {
        *root = value;
        return Ok(());
    };
    let mut at = root;
    for part in way {
        at.unfold();
        at = match at {
            Node::Object(members) => {
                members.entry(Cow::Borrowed(part.as_str())).or_insert_with(Node::empty_object)
            }
            Node::Array(elements) => index(part).and_then(|index| elements.get_mut(index)).ok_or(NO_INDEX)?,
            Node::Raw(_) => return Err(NO_CONTAINER),
        };
    }
    at.unfold();
    match at {
        Node::Object(members) => {
            members.insert(Cow::Borrowed(last.as_str()), value);
        }
        Node::Array(elements) => {
            // As in RFC 6902, `-` and the index behind the last element append.
            let index = if last == "-" { Some(elements.len()) } else { index(last) };
            match index {
                Some(index) if index < elements.len() => elements[index] = value,
                Some(index) if index == elements.len() => elements.push(value),
                _ => return Err(NO_INDEX),
            }
        }
        Node::Raw(_) => return Err(NO_CONTAINER),
    }
    Ok(())
}

/// Removes all elements that are equal to `value`.
fn pull<'a>(elements: &mut Vec<Node<'a>>, mut value: Node<'a>, work: &mut Work) -> Result<(), Rule> {
    work.spend(elements.iter().map(weight).sum())?;
    value.unfold_whole();
    elements.retain(|element| !same(element, &value, Numbers::ByValue));
    Ok(())
}

/// About the bytes of a value.
fn weight(node: &Node<'_>) -> usize {
    match node {
        Node::Raw(text) => LOOKING + text.len(),
        Node::Array(elements) => LOOKING + elements.iter().map(weight).sum::<usize>(),
        Node::Object(members) => {
            LOOKING + members.iter().map(|(name, value)| name.len() + weight(value)).sum::<usize>()
        }
    }
}

/// Removes what stands at the path; nothing where nothing does.
fn unset(root: &mut Node<'_>, parts: &[String], work: &mut Work) -> Result<(), Rule> {
    let Some((last, way)) = parts.split_last() else { return Err(NO_OBJECT) };
    let Some(parent) = find(root, way)? else { return Ok(()) };
    parent.unfold();
    match parent {
        Node::Object(members) => {
            work.spend(members.len() * MOVING)?;
            match work {
                Work::Bounded(_) => members.shift_remove(last.as_str()),
                Work::Reversing => members.swap_remove(last.as_str()),
            };
        }
        Node::Array(elements) => match index(last) {
            Some(index) if index < elements.len() => {
                work.spend(elements.len() * MOVING)?;
                elements.remove(index);
            }
            _ => return Err(NO_INDEX),
        },
        Node::Raw(_) => return Err(NO_CONTAINER),
    }
    Ok(())
}

fn increment(target: &mut Node<'_>, by: &str) -> Result<(), Rule> {
    let Node::Raw(text) = target else { return Err(NO_NUMBER) };
    if target_kind(text) != Kind::Number {
        return Err(NO_NUMBER);
    }
    let sum = sum(text, by).ok_or(NO_SUM)?;
    *target = Node::Raw(Cow::Owned(sum));
    Ok(())
}

fn target_kind(text: &str) -> Kind {
    Node::of(text).kind()
}

/// Whole numbers add exactly, others as 64-bit floats.
fn sum(a: &str, b: &str) -> Option<String> {
    if let (Ok(a), Ok(b)) = (a.parse::<i128>(), b.parse::<i128>()) {
        return a.checked_add(b).map(|sum| sum.to_string());
    }
    let sum = a.parse::<f64>().ok()? + b.parse::<f64>().ok()?;
    serde_json::Number::from_f64(sum).map(|number| number.to_string())
}

/// An index as JSON pointers write it: without leading zeros.
fn index(part: &str) -> Option<usize> {
    let plain = part == "0" || (!part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit()));
    if plain { part.parse().ok() } else { None }
}
