//! Reads the fields of a client's message and names the one that breaks a rule.

use serde::de::DeserializeOwned;
use serde_json::{Value, value::RawValue};
use shared_types::{Position, Problem, RawObject, SubscriptionId, TopicName, json::RawMembers};
use std::borrow::Cow;

/// The fields of one message that nobody has read yet.
#[derive(Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The fields of the object in `text`.
    ///
    /// # Errors
    /// `INVALID_JSON` where it is no JSON object; `VALIDATION_FAILED` for a field that comes twice.
    pub fn parse(text: &'a str) -> Result<Self, Problem> {
        let members: RawMembers<'a> = serde_json::from_str(text).map_err(|error| {
            Problem::invalid("INVALID_JSON", format!("the message is not a JSON object: {error}"))
        })?;
        for (at, (name, _)) in members.0.iter().enumerate() {
            if members.0[..at].iter().any(|(other, _)| other == name) {
                return Err(Problem::field(name.as_ref(), "comes twice"));
            }
        }
        Ok(Self(members.0))
    }

    /// Takes a field as it is written; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.0.iter().position(|(field, _)| field == name)?;
        let (_, raw) = self.0.swap_remove(at);
        (raw.get() != "null").then_some(raw)
    }

    fn typed<T: DeserializeOwned>(&mut self, name: &str, rule: &str) -> Result<Option<T>, Problem> {
        self.take(name)
            .map(|raw| serde_json::from_str(raw.get()).map_err(|_| Problem::field(name, rule)))
            .transpose()
    }

    /// A text.
    ///
    /// # Errors
    /// Where it is something else, or holds NUL.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let text: Option<String> = self.typed(name, "must be a text")?;
        match text {
            Some(text) if text.contains('\0') => {
                Err(Problem { code: "INVALID_TEXT", ..Problem::field(name, "may not hold NUL") })
            }
            text => Ok(text),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// Where it is absent or something else.
    pub fn required_text(&mut self, name: &str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| Problem::field(name, "is required"))
    }

    /// The topic that must be there.
    ///
    /// # Errors
    /// Where it is absent or breaks the rule for names.
    pub fn topic(&mut self) -> Result<TopicName, Problem> {
        TopicName::parse(&self.required_text("topic")?)
    }

    /// A position `{ epoch, offset }`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn position(&mut self, name: &str) -> Result<Option<Position>, Problem> {
        self.typed(name, "must be { epoch: text, offset: integer of 0 or more }")
    }

    /// Any JSON value.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn value(&mut self, name: &str) -> Result<Option<Value>, Problem> {
        self.typed(name, "cannot be read")
    }

    /// The payload object that must be there.
    ///
    /// # Errors
    /// Where it is absent, no object, or cannot be carried.
    pub fn payload(&mut self) -> Result<RawObject, Problem> {
        let raw = self.take("payload").ok_or_else(|| Problem::field("payload", "is required"))?;
        RawObject::from_raw(raw)
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn count(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, Problem> {
        let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
        let count: Option<usize> = self.typed(name, &rule)?;
        match count {
            Some(count) if !range.contains(&count) => Err(Problem::field(name, rule)),
            count => Ok(count),
        }
    }

    /// A subscription's id.
    ///
    /// # Errors
    /// Where it is no text of 1 to 64 characters.
    pub fn subscription(&mut self) -> Result<Option<SubscriptionId>, Problem> {
        let Some(text) = self.text("subscriptionId")? else { return Ok(None) };
        if text.is_empty() || text.len() > 64 {
            return Err(Problem::field("subscriptionId", "must have 1 to 64 characters"));
        }
        Ok(Some(SubscriptionId::from_stored(text)))
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Naming the first field that nobody knows.
    pub fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::field(name.as_ref(), "is not known here")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_field_and_the_rule() {
        let mut fields =
            Fields::parse(r#"{"topic":5,"limit":0,"since":{"epoch":"e","offset":-1},"x":1}"#).expect("json");
        assert_eq!(fields.topic().expect_err("number").details[0].path, "topic");
        assert_eq!(fields.count("limit", 1..=5).expect_err("zero").details[0].path, "limit");
        assert_eq!(fields.position("since").expect_err("negative").details[0].path, "since");
        assert_eq!(fields.payload().expect_err("absent").details[0].path, "payload");
        assert_eq!(fields.finish().expect_err("unknown").details[0].path, "x");
        assert_eq!(Fields::parse("[]").err().map(|p| p.code), Some("INVALID_JSON"));
        assert_eq!(Fields::parse(r#"{"a":1,"a":2}"#).err().map(|p| p.code), Some("VALIDATION_FAILED"));
    }
}
