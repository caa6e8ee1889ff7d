//! JSON pointers (RFC 6901).

/// A pointer's parts; empty for the whole value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `/a/b~1c`; answers the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or("must be a JSON pointer: empty, or beginning with /")?;
        rest.split('/').map(unescape).collect::<Option<_>>().map(Self).ok_or("~ must be followed by 0 or 1")
    }

    /// A pointer to a member of the top.
    pub fn to_member(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// Its parts: names of members and indexes of elements.
    pub fn parts(&self) -> &[String] {
        &self.0
    }
}

fn unescape(part: &str) -> Option<String> {
    let mut out = String::with_capacity(part.len());
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '~' => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

/// Appends `/name`, escaped, to a pointer's text.
pub fn push_part(out: &mut String, name: &str) {
    out.push('/');
    for c in name.chars() {
        match c {
            '~' => out.push_str("~0"),
            '/' => out.push_str("~1"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_unescaped_once() {
        let pointer = Pointer::parse("/a/b~1c/~01//ä").expect("valid");
        assert_eq!(pointer.parts(), ["a", "b/c", "~1", "", "ä"]);
        let mut text = String::new();
        pointer.parts().iter().for_each(|part| push_part(&mut text, part));
        assert_eq!(text, "/a/b~1c/~01//ä");
        assert!(Pointer::parse("").expect("the whole").parts().is_empty());
        for bad in ["a", "/~", "/~2", "/a~"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
    }
}
