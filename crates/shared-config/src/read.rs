//! Reading variables by their definition.
//!
//! Owns the rules of [`Kind`]. Every breach is collected, and reading goes on with a value that is never
//! used, because a configuration with a problem is never returned.

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use url::Url;

use crate::networks::Networks;
use crate::problem::Problem;
use crate::secret::{Secret, SecretKey};
use crate::source::Vars;
use crate::variables::{Kind, SLOT_NAME_MAX, Variable, variable};

/// Reads variables and collects what is wrong with them.
pub(crate) struct Reader<'vars> {
    vars: &'vars Vars,
    problems: Vec<Problem>,
}

impl<'vars> Reader<'vars> {
    pub(crate) fn new(vars: &'vars Vars) -> Self {
        Self { vars, problems: Vec::new() }
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Notes a problem with `name`.
    pub(crate) fn problem(&mut self, name: &str, rule: impl Into<String>) {
        self.problems.push(Problem { variable: name.to_owned(), rule: rule.into() });
    }

    /// Whether `name` is set; an empty value counts as not set, as in `NAME=${OTHER:-}`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(variable(name)).is_some()
    }

    fn value(&self, variable: &Variable) -> Option<&'vars str> {
        self.vars.get(variable.name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The value of `name` or its default, if it keeps the variable's rule.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let variable = variable(name);
        let value = self.value(variable).or(variable.default)?;
        if keeps_rule(&variable.kind, value) {
            return Some(value.to_owned());
        }
        let rule = variable.kind.rule();
        let found = if variable.secret { String::new() } else { format!(", not `{value}`") };
        self.problem(name, format!("must be {rule}{found}"));
        None
    }

    /// A number, within the variable's bounds.
    pub(crate) fn integer(&mut self, name: &str) -> u64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A number that counts things in memory.
    pub(crate) fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.integer(name)).unwrap_or(usize::MAX)
    }

    pub(crate) fn port(&mut self, name: &str) -> u16 {
        u16::try_from(self.integer(name)).unwrap_or_default()
    }

    pub(crate) fn ip_address(&mut self, name: &str) -> IpAddr {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    pub(crate) fn networks(&mut self, name: &str) -> Networks {
        self.text(name).and_then(|text| Networks::parse(&text)).unwrap_or_default()
    }

    pub(crate) fn secret(&mut self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    pub(crate) fn key(&mut self, name: &str) -> Option<SecretKey> {
        self.text(name).as_deref().and_then(key_bytes).map(SecretKey::new)
    }

    /// A value that must be there, given what the rest of the configuration says.
    pub(crate) fn required_text(&mut self, name: &str, when: &str) -> String {
        if !self.is_set(name) {
            self.problem(name, format!("must be set {when}"));
            return String::new();
        }
        self.text(name).unwrap_or_default()
    }
}

fn keeps_rule(kind: &Kind, value: &str) -> bool {
    match kind {
        Kind::OneOf(words) => words.contains(&value),
        Kind::Integer { min, max } => {
            value.parse::<u64>().is_ok_and(|number| (*min..=*max).contains(&number))
        }
        Kind::IpAddress => value.parse::<IpAddr>().is_ok(),
        Kind::Url(schemes) => is_url(schemes, value),
        Kind::Text => true,
        Kind::SlotName => {
            (1..=SLOT_NAME_MAX).contains(&value.len())
                && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }
        Kind::Key32 => key_bytes(value).is_some(),
        Kind::Networks => Networks::parse(value).is_some(),
        Kind::Origins => value == "*" || value.split(',').all(|origin| is_origin(origin.trim())),
    }
}

fn is_url(schemes: &[&str], value: &str) -> bool {
    Url::parse(value).is_ok_and(|url| {
        schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty())
    })
}

/// Scheme, host and perhaps a port: what a browser sends as `Origin`.
fn is_origin(value: &str) -> bool {
    is_url(&["http", "https"], value)
        && Url::parse(value).is_ok_and(|url| url.origin().ascii_serialization() == value)
}

/// 32 bytes in standard or URL-safe base64, padded or not.
fn key_bytes(value: &str) -> Option<[u8; 32]> {
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(value).ok())?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_their_scheme_and_a_host() {
        let postgres = Kind::Url(&["postgres", "postgresql"]);
        for good in
            ["postgres://localhost/db", "postgresql://u:p@h:5432/db?sslmode=require", "postgres://[::1]/d"]
        {
            assert!(keeps_rule(&postgres, good), "{good}");
        }
        for bad in ["mysql://h/db", "localhost:5432", "postgres:///db", "postgres://h:99999/db", "postgres"] {
            assert!(!keeps_rule(&postgres, bad), "{bad}");
        }
    }

    #[test]
    fn slot_names_follow_postgres() {
        assert!(keeps_rule(&Kind::SlotName, "realtime_cdc_slot"));
        assert!(keeps_rule(&Kind::SlotName, &"a".repeat(SLOT_NAME_MAX)));
        for bad in ["", "Realtime", "a-b", "ä", &"a".repeat(SLOT_NAME_MAX + 1)] {
            assert!(!keeps_rule(&Kind::SlotName, bad), "{bad}");
        }
    }

    #[test]
    fn origins_are_what_a_browser_sends() {
        for good in ["*", "https://a.example", "http://localhost:5173, https://b.example"] {
            assert!(keeps_rule(&Kind::Origins, good), "{good}");
        }
        for bad in ["https://a.example/", "a.example", "https://a.example,", "https://*.example/x", "ftp://a"]
        {
            assert!(!keeps_rule(&Kind::Origins, bad), "{bad}");
        }
    }

    #[test]
    fn keys_are_exactly_32_bytes() {
        let standard = base64::engine::general_purpose::STANDARD;
        assert_eq!(key_bytes(&standard.encode([7; 32])), Some([7; 32]));
        assert_eq!(key_bytes(standard.encode([255; 32]).trim_end_matches('=')), Some([255; 32]));
        assert_eq!(key_bytes(&base64::engine::general_purpose::URL_SAFE.encode([251; 32])), Some([251; 32]));
        for bad in [standard.encode([7; 31]), standard.encode([7; 33]), "not base64!".to_owned()] {
            assert_eq!(key_bytes(&bad), None, "{bad}");
        }
    }
}
