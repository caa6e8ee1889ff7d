//! What each operation does to a tree. What does not fit is answered by the rule that it breaks.

use crate::{
    merge::merge_into,
    mutate::{Op, Operation},
    node::{Kind, Node, Numbers, same},
};
use std::borrow::Cow;

type Rule = &'static str;

const NO_CONTAINER: Rule = "the path leads through something that is neither an object nor an array";
const NO_INDEX: Rule = "the path names an element of an array that is not there";
const NO_ARRAY: Rule = "what stands at the path is not an array";
const NO_NUMBER: Rule = "what stands at the path is not a number";
const NO_OBJECT: Rule = "what stands at the path is not an object";
const NO_SUM: Rule = "the sum is a number that no 64-bit float can hold";

/// Carries out one operation.
pub fn operate<'a>(root: &mut Node<'a>, operation: &'a Operation) -> Result<(), Rule> {
    let (parts, value) = (operation.at.parts(), Node::of(&operation.value));
    match operation.op {
        Op::Set => set(root, parts, value),
        Op::Unset => unset(root, parts),
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
        Op::Pull => {
            if let Some(target) = find(root, parts)? {
                let elements = target.elements_mut().ok_or(NO_ARRAY)?;
                elements.retain(|element| !same(element, &value, Numbers::ByValue));
            }
            Ok(())
        }
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

/// Removes what stands at the path; nothing where nothing does.
fn unset(root: &mut Node<'_>, parts: &[String]) -> Result<(), Rule> {
    let Some((last, way)) = parts.split_last() else { return Err(NO_OBJECT) };
    let Some(parent) = find(root, way)? else { return Ok(()) };
    parent.unfold();
    match parent {
        Node::Object(members) => {
            members.shift_remove(last.as_str());
        }
        Node::Array(elements) => match index(last) {
            Some(index) if index < elements.len() => {
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
