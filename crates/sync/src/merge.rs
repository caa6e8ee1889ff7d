//! Deep merge.

use crate::node::{Kind, Node};

/// `data` with `patch` merged into it; both are the texts of objects.
///
/// Objects merge member by member, at any depth; everything else, arrays and null too, replaces what was there.
pub fn merge(data: &str, patch: &str) -> String {
    let mut merged = Node::of(data);
    merge_into(&mut merged, Node::of(patch));
    merged.to_text(data.len() + patch.len())
}

/// Merges `patch` into `target`.
pub fn merge_into<'a>(target: &mut Node<'a>, mut patch: Node<'a>) {
    if target.kind() != Kind::Object || patch.kind() != Kind::Object {
        *target = patch;
        return;
    }
    let (Some(members), Some(patches)) = (target.members_mut(), patch.members_mut()) else { return };
    for (name, value) in std::mem::take(patches) {
        match members.get_mut(&name) {
            Some(present) => merge_into(present, value),
            None => {
                members.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_merge_and_everything_else_replaces() {
        let data = r#"{"a":{"x":1,"y":{"z":[1,2]}},"b":[1],"n":1.50}"#;
        assert_eq!(
            merge(data, r#"{"a":{"y":{"w":null},"x":2.0},"c":{"d":1}}"#),
            r#"{"a":{"x":2.0,"y":{"z":[1,2],"w":null}},"b":[1],"n":1.50,"c":{"d":1}}"#
        );
        assert_eq!(merge(data, r#"{"b":[],"a":null,"n":{"x":1}}"#), r#"{"a":null,"b":[],"n":{"x":1}}"#);
        assert_eq!(merge(data, "{}"), data);
    }
}
