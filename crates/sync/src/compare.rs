//! What changed between two states of a document, and how to go back.

use crate::node::{Kind, Members, Node, Numbers, push_text, same, written_alike};
use crate::pointer::push_part;
use serde_json::value::RawValue;
use shared_types::json::RawMembers;
use std::{borrow::Cow, collections::BTreeSet};

/// The difference of two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// `{ added, removed, changed }`: members of the top that are new, names of those that are gone, and
    /// `{ from, to }` of those that differ. A member of an object is named by its dotted path in `changed`, without
    /// `from` where it is new and without `to` where it is gone.
    ///
    /// A path is always unambiguous: where a name with a dot could make it mean two things, the object that holds it
    /// is told as a whole.
    pub diff: String,
    /// A JSON array of `set` and `unset` operations that lead from the new state back to the old one.
    pub undo: String,
}

/// Compares the texts of two objects.
///
/// Values are equal whatever the order of their members and the escapes in their texts; numbers are compared as
/// written, so that what a client shows follows what is stored.
pub fn compare(old: &str, new: &str) -> Comparison {
    let (old, new) = (listed(old), listed(new));
    let mut walk = Walk::new(old.iter().chain(&new).map(|(name, _)| &**name));
    let same = same_ends(&old, &new);
    let (old, new) = (same.between(old), same.between(new));
    for (name, value) in &new {
        match old.get(name) {
            None => walk.added(name, value),
            Some(before) => walk.member(name, before, value),
        }
    }
    for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        walk.removed(name, value);
    }
    walk.finish()
}

/// The members of an object as they are written, equal names too.
type List<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The text was checked on its way in: one that is no object has no members.
fn listed(text: &str) -> List<'_> {
    serde_json::from_str::<RawMembers<'_>>(text).unwrap_or_default().0
}

/// How many members at the front and at the back are alike, and need not be looked at.
#[derive(Clone, Copy, Default)]
struct SameEnds {
    front: usize,
    back: usize,
}

impl SameEnds {
    /// The members between them.
    fn between(self, list: List<'_>) -> Members<'_> {
        let end = list.len() - self.back;
        list.into_iter()
            .take(end)
            .skip(self.front)
            .map(|(name, value)| (name, Node::of(value.get())))
            .collect()
    }
}

/// What stands before and behind a change is mostly written alike, and then quickly compared.
fn same_ends(old: &List<'_>, new: &List<'_>) -> SameEnds {
    /// Members between the ends beyond which it is not worth it.
    const BETWEEN: usize = 8;
    let pairs = |front: usize| old[front..].iter().rev().zip(new[front..].iter().rev());
    let is_alike =
        |a: &(Cow<'_, str>, &RawValue), b: &(Cow<'_, str>, &RawValue)| a.0 == b.0 && a.1.get() == b.1.get();
    let front = old.iter().zip(new).take_while(|(a, b)| is_alike(a, b)).count();
    let back = pairs(front).take_while(|(a, b)| is_alike(a, b)).count();
    let between = |list: &List<'_>| front..list.len() - back;
    if between(old).len().max(between(new).len()) > BETWEEN {
        return SameEnds::default();
    }
    // Of equal names the last one counts, wherever it stands.
    let ends = || old[..front].iter().chain(&old[old.len() - back..]);
    let mut names = old[between(old)].iter().chain(&new[between(new)]);
    match names.any(|(name, _)| ends().any(|(end, _)| end == name)) {
        true => SameEnds::default(),
        false => SameEnds { front, back },
    }
}

/// The parts of the answer as they are found, each a comma-separated list.
struct Walk {
    added: String,
    removed: String,
    changed: String,
    undo: String,
    /// First parts of the top's names with a dot: an object of such a name is told as a whole.
    ambiguous: BTreeSet<String>,
}

impl Walk {
    /// `names` are those of both states' members.
    fn new<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let ambiguous =
            names.flat_map(|name| name.match_indices('.').map(|(at, _)| name[..at].to_owned())).collect();
        let (added, removed) = Default::default();
        let (changed, undo) = (String::with_capacity(256), String::with_capacity(256));
        Self { added, removed, changed, undo, ambiguous }
    }

    fn added(&mut self, name: &str, value: &Node<'_>) {
        separate(&mut self.added);
        push_text(&mut self.added, name);
        self.added.push(':');
        value.write(&mut self.added);
        self.undo(&pointer(name), None);
    }

    fn removed(&mut self, name: &str, value: &Node<'_>) {
        separate(&mut self.removed);
        push_text(&mut self.removed, name);
        self.undo(&pointer(name), Some(value));
    }

    /// A member of the top that is in both.
    fn member(&mut self, name: &str, old: &Node<'_>, new: &Node<'_>) {
        let mut place = Place { path: name.to_owned(), pointer: pointer(name) };
        if name.contains('.') || self.ambiguous.contains(name) {
            self.whole(&place, old, new);
        } else {
            self.within(&mut place, old, new);
        }
    }

    /// Two values at one place: as objects by their members, otherwise as a whole.
    ///
    /// Each level is looked at once, so that deep values cost no more than their text times their depth.
    fn within(&mut self, place: &mut Place, old: &Node<'_>, new: &Node<'_>) {
        if written_alike(old, new) {
            return;
        }
        if (old.kind(), new.kind()) != (Kind::Object, Kind::Object) {
            return self.whole(place, old, new);
        }
        let (before, after) = (old.view(), new.view());
        let (Node::Object(before), Node::Object(after)) = (before.node(), after.node()) else { return };
        if before.keys().chain(after.keys()).any(|name| name.contains('.')) {
            return self.whole(place, old, new);
        }
        for (name, value) in after {
            place.inside(name, |place| match before.get(name) {
                None => self.changed(place, None, Some(value)),
                Some(present) => self.within(place, present, value),
            });
        }
        for (name, value) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
            place.inside(name, |place| self.changed(place, Some(value), None));
        }
    }

    fn whole(&mut self, place: &Place, old: &Node<'_>, new: &Node<'_>) {
        if !same(old, new, Numbers::AsWritten) {
            self.changed(place, Some(old), Some(new));
        }
    }

    fn changed(&mut self, place: &Place, from: Option<&Node<'_>>, to: Option<&Node<'_>>) {
        separate(&mut self.changed);
        push_text(&mut self.changed, &place.path);
        self.changed.push_str(":{");
        if let Some(from) = from {
            self.changed.push_str("\"from\":");
            from.write(&mut self.changed);
        }
        if let Some(to) = to {
            self.changed.push_str(if from.is_some() { ",\"to\":" } else { "\"to\":" });
            to.write(&mut self.changed);
        }
        self.changed.push('}');
        self.undo(&place.pointer, from);
    }

    /// Puts `value` back, or takes away what was not there.
    fn undo(&mut self, at: &str, value: Option<&Node<'_>>) {
        separate(&mut self.undo);
        self.undo.push_str(if value.is_some() {
            "{\"op\":\"set\",\"path\":"
        } else {
            "{\"op\":\"unset\",\"path\":"
        });
        push_text(&mut self.undo, at);
        if let Some(value) = value {
            self.undo.push_str(",\"value\":");
            value.write(&mut self.undo);
        }
        self.undo.push('}');
    }

    fn finish(self) -> Comparison {
        let Self { added, removed, changed, undo, .. } = self;
        Comparison {
            diff: ["{\"added\":{", &added, "},\"removed\":[", &removed, "],\"changed\":{", &changed, "}}"]
                .concat(),
            undo: ["[", &undo, "]"].concat(),
        }
    }
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
}

fn pointer(name: &str) -> String {
    let mut out = String::new();
    push_part(&mut out, name);
    out
}

/// Where the walk stands: as it is told, and as it is undone.
struct Place {
    path: String,
    pointer: String,
}

impl Place {
    /// Goes to the member `name` and back.
    fn inside(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        let (path, pointer) = (self.path.len(), self.pointer.len());
        self.path.push('.');
        self.path.push_str(name);
        push_part(&mut self.pointer, name);
        visit(self);
        self.path.truncate(path);
        self.pointer.truncate(pointer);
    }
}

#[cfg(test)]
pub mod tests;
