//! JSON as a tree that is only unfolded where somebody looks, over text that is kept as written.

use indexmap::IndexMap;
use serde_json::value::RawValue;
use shared_types::json::RawMembers;
use std::borrow::Cow;

/// The members of an object in their order.
pub type Members<'a> = IndexMap<Cow<'a, str>, Node<'a>, ahash::RandomState>;

/// A JSON value.
#[derive(Clone, Debug)]
pub enum Node<'a> {
    /// Its text, not looked into yet; without white space between tokens. An owned one is a scalar.
    Raw(Cow<'a, str>),
    /// An unfolded array.
    Array(Vec<Node<'a>>),
    /// An unfolded object.
    Object(Members<'a>),
}

/// One level of a node: its own, or made for looking at it.
pub enum View<'n> {
    Held(&'n Node<'n>),
    Made(Node<'n>),
}

impl<'n> View<'n> {
    pub fn node(&self) -> &Node<'n> {
        match self {
            Self::Held(node) => node,
            Self::Made(node) => node,
        }
    }
}

/// What kind of value a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    Text,
    Number,
    /// true, false or null.
    Word,
}

/// How numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// 1 and 1.0 differ.
    AsWritten,
    /// 1 and 1.0 are equal.
    ByValue,
}

impl<'a> Node<'a> {
    /// The value that `text` says.
    pub fn of(text: &'a str) -> Self {
        Self::Raw(Cow::Borrowed(text))
    }

    /// An object without members.
    pub fn empty_object() -> Self {
        Self::Object(Members::default())
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Object(_) => Kind::Object,
            Self::Array(_) => Kind::Array,
            Self::Raw(text) => match text.as_bytes().first() {
                Some(b'{') => Kind::Object,
                Some(b'[') => Kind::Array,
                Some(b'"') => Kind::Text,
                Some(b'-' | b'0'..=b'9') => Kind::Number,
                _ => Kind::Word,
            },
        }
    }

    /// The members to change, where it is an object.
    pub fn members_mut(&mut self) -> Option<&mut Members<'a>> {
        self.unfold();
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The elements to change, where it is an array.
    pub fn elements_mut(&mut self) -> Option<&mut Vec<Self>> {
        self.unfold();
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// Unfolds one level.
    pub fn unfold(&mut self) {
        if let Self::Raw(Cow::Borrowed(text)) = self
            && let Some(unfolded) = unfolded(text)
        {
            *self = unfolded;
        }
    }

    /// One level of it, unfolded.
    pub fn view(&self) -> View<'_> {
        match self {
            Self::Raw(text) => unfolded(text).map_or(View::Held(self), View::Made),
            _ => View::Held(self),
        }
    }

    /// Unfolds all levels, for a value that is looked at again and again.
    pub fn unfold_whole(&mut self) {
        self.unfold();
        match self {
            Self::Raw(_) => {}
            Self::Array(elements) => elements.iter_mut().for_each(Self::unfold_whole),
            Self::Object(members) => members.values_mut().for_each(Self::unfold_whole),
        }
    }

    /// Its text, of about so many bytes.
    pub fn to_text(&self, bytes: usize) -> String {
        let mut out = String::with_capacity(bytes);
        self.write(&mut out);
        out
    }

    /// Appends its text.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Raw(text) => out.push_str(text),
            Self::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    element.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_text(out, name);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// One level of a container's text; `None` for scalars. Of equal names the last one counts.
///
/// The text was checked on its way in: one that does not parse is taken for a scalar.
fn unfolded(text: &str) -> Option<Node<'_>> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let raw: RawMembers<'_> = serde_json::from_str(text).ok()?;
            let members = raw.0.into_iter().map(|(name, value)| (name, Node::of(value.get())));
            Some(Node::Object(members.collect()))
        }
        Some(b'[') => {
            let raw: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            Some(Node::Array(raw.into_iter().map(|value| Node::of(value.get())).collect()))
        }
        _ => None,
    }
}

/// Whether two values are equal. The order of members does not count.
pub fn same(a: &Node<'_>, b: &Node<'_>, numbers: Numbers) -> bool {
    if written_alike(a, b) {
        return true;
    }
    match (a.kind(), b.kind()) {
        (Kind::Object, Kind::Object) | (Kind::Array, Kind::Array) => same_inside(a, b, numbers),
        (Kind::Text, Kind::Text) => decoded(a).is_some_and(|text| Some(text) == decoded(b)),
        (Kind::Number, Kind::Number) => numbers == Numbers::ByValue && same_number(a, b),
        _ => false,
    }
}

/// Whether two values are equal at first sight.
pub fn written_alike(a: &Node<'_>, b: &Node<'_>) -> bool {
    matches!((a, b), (Node::Raw(a), Node::Raw(b)) if a == b)
}

fn same_inside(a: &Node<'_>, b: &Node<'_>, numbers: Numbers) -> bool {
    match (a.view().node(), b.view().node()) {
        (Node::Object(a), Node::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other, numbers)))
        }
        (Node::Array(a), Node::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b, numbers))
        }
        _ => false,
    }
}

fn decoded(node: &Node<'_>) -> Option<String> {
    match node {
        Node::Raw(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

fn same_number(a: &Node<'_>, b: &Node<'_>) -> bool {
    let (Node::Raw(a), Node::Raw(b)) = (a, b) else { return false };
    match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b),
    }
}

/// Appends `text` as a JSON string.
pub fn push_text(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Whether the containers of valid JSON nest deeper than `limit`.
pub fn is_deeper(text: &str, limit: usize) -> bool {
    // Most texts have fewer containers than that altogether, which is counted faster.
    text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() > limit && depth(text) > limit
}

fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut inside, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b'{' | b'[' if !inside => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !inside => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_kept_as_written_where_nobody_looks_and_where_somebody_does() {
        let text = r#"{"a":1.0,"b":[1e2,{"x":12345678901234567890}],"c":"\u00e4","d\n":null}"#;
        let mut node = Node::of(text);
        assert_eq!(node.to_text(0), text);
        let members = node.members_mut().expect("an object");
        members["b"].elements_mut().expect("an array")[1].unfold();
        assert_eq!(node.to_text(0), text);
    }

    #[test]
    fn of_equal_names_the_last_one_counts() {
        let mut node = Node::of(r#"{"a":1,"b":2,"a":3}"#);
        node.unfold();
        assert_eq!(node.to_text(0), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn equality_sees_values_not_spelling() {
        let equal = |a, b, numbers| same(&Node::of(a), &Node::of(b), numbers);
        assert!(equal(r#"{"a":1,"b":["\u00e4"]}"#, r#"{"b":["ä"],"a":1}"#, Numbers::AsWritten));
        assert!(!equal("1", "1.0", Numbers::AsWritten));
        assert!(equal("[1,{\"x\":100}]", "[1.0,{\"x\":1e2}]", Numbers::ByValue));
        assert!(!equal("12345678901234567890", "12345678901234567891", Numbers::ByValue));
        assert!(!equal("[1,2]", "[2,1]", Numbers::ByValue));
        for (a, b) in [("1", "\"1\""), ("null", "false"), ("{}", "[]"), ("{\"a\":1}", "{\"a\":1,\"b\":1}")] {
            assert!(!equal(a, b, Numbers::ByValue), "{a} {b}");
        }
    }

    #[test]
    fn depth_counts_containers_outside_of_texts() {
        assert_eq!(depth("1"), 0);
        let text = r#"{"a":[{"b":"[[[\"[["}],"c":{}}"#;
        assert_eq!(depth(text), 3);
        assert!(is_deeper(text, 2) && !is_deeper(text, 3) && !is_deeper(text, 20));
    }
}
