//! Array texts: `{1,NULL,"a \"b\"",{…}}`, with or without bounds (`[0:1]={…}`).

use super::{Kind, push_text};

/// How deeply arrays may nest; Postgres allows 6 dimensions.
const MAX_DIMENSIONS: usize = 6;

/// Appends the array as JSON, or its text where it is none.
pub(super) fn write(out: &mut String, element: &Kind, text: &str) {
    let body = match text.find('{') {
        Some(open) if text.starts_with('[') => &text[open..],
        _ => text,
    };
    let start = out.len();
    let mut rest = body;
    if write_level(out, element, &mut rest, 1).is_none() || !rest.is_empty() {
        out.truncate(start);
        push_text(out, text);
    }
}

fn write_level(out: &mut String, element: &Kind, rest: &mut &str, depth: usize) -> Option<()> {
    *rest = rest.strip_prefix('{').filter(|_| depth <= MAX_DIMENSIONS)?;
    out.push('[');
    if let Some(after) = rest.strip_prefix('}') {
        *rest = after;
        out.push(']');
        return Some(());
    }
    loop {
        if rest.starts_with('{') {
            write_level(out, element, rest, depth + 1)?;
        } else if rest.starts_with('"') {
            element.write_text(out, &quoted(rest)?);
        } else {
            let end = rest.find([',', '}'])?;
            match &rest[..end] {
                null if null.eq_ignore_ascii_case("null") => out.push_str("null"),
                plain => element.write_text(out, plain),
            }
            *rest = &rest[end..];
        }
        let closed = rest.starts_with('}');
        *rest = rest.strip_prefix([',', '}'])?;
        if closed {
            out.push(']');
            return Some(());
        }
        out.push(',');
    }
}

/// Takes a quoted element, in which a backslash stands before any character that is meant as it is.
fn quoted(rest: &mut &str) -> Option<String> {
    let mut value = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(value);
            }
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}
