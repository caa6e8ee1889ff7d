//! The rules of topics: which names are registered, and which topics and types a publisher may use.
//!
//! Owns the rules. Knows neither the database nor HTTP: names and texts enter unchecked and leave checked.

use shared_types::{Problem, TopicName, Violation};

/// The longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 2_000;
/// The longest owner, in bytes.
pub const MAX_OWNER_BYTES: usize = 200;
/// What only documents publish.
const SYNC: &str = "sync.";
/// Types of the platform's own events.
const RESERVED_TYPES: [&str; 2] = [SYNC, "database."];

/// A topic to register, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// What its events say.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
}

impl NewTopic {
    /// Checks name, description and owner.
    ///
    /// # Errors
    /// `INVALID_TOPIC` for the name, `VALIDATION_FAILED` naming the other fields.
    pub fn check(name: &str, description: &str, owner: &str) -> Result<Self, Problem> {
        let name = TopicName::parse_registered(name)?;
        check_change(Some(description), Some(owner))?;
        Ok(Self { name, description: description.trim().to_owned(), owner: owner.trim().to_owned() })
    }
}

/// Checks what is to be changed of a topic.
///
/// # Errors
/// `VALIDATION_FAILED` naming the fields.
pub fn check_change(description: Option<&str>, owner: Option<&str>) -> Result<(), Problem> {
    let fields = [("description", description, MAX_DESCRIPTION_BYTES), ("owner", owner, MAX_OWNER_BYTES)];
    let broken: Vec<Violation> = fields
        .into_iter()
        .filter_map(|(path, text, max)| {
            let text = text?;
            let fits = !text.trim().is_empty() && text.len() <= max;
            (!fits).then(|| {
                Violation::new(path, format!("must be a text that is not blank, of at most {max} bytes"))
            })
        })
        .collect();
    if broken.is_empty() { Ok(()) } else { Err(Problem::fields(broken)) }
}

/// Whether clients may publish events of type `kind` to `topic`.
///
/// # Errors
/// `FORBIDDEN` for topics and types that are the platform's own.
pub fn check_publishable(topic: &TopicName, kind: &str) -> Result<(), Problem> {
    if topic.as_str().starts_with(SYNC) {
        return Err(Problem::forbidden("topic: what begins with sync. is published by documents only"));
    }
    if RESERVED_TYPES.iter().any(|prefix| kind.starts_with(prefix)) {
        return Err(Problem::forbidden("type: what begins with sync. or database. is the platform's own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_field_is_named() {
        let problem = check_change(Some(" "), Some(&"x".repeat(201))).expect_err("both");
        let paths: Vec<&str> = problem.details.iter().map(|detail| detail.path.as_str()).collect();
        assert_eq!(paths, ["description", "owner"]);
        assert_eq!(NewTopic::check("session", "d", "o").expect_err("no dot").code, "INVALID_TOPIC");
        assert!(NewTopic::check("session.status", "d", "o").is_ok());
    }

    #[test]
    fn the_platforms_own_topics_and_types_are_not_published() {
        let topic = |name| TopicName::parse(name).expect("valid");
        assert!(check_publishable(&topic("order.updated"), "message").is_ok());
        assert!(check_publishable(&topic("sync.notes.updated"), "message").is_err());
        assert!(check_publishable(&topic("order.updated"), "database.insert").is_err());
        assert!(check_publishable(&topic("order.updated"), "sync.updated").is_err());
        assert!(check_publishable(&topic("order.updated"), "synced").is_ok());
    }
}
