//! The rules of topics: which names are registered, and which topics and types a publisher may use.
//!
//! Owns the rules. Knows neither the database nor HTTP: names and texts enter unchecked and leave checked.

use shared_types::{Problem, TopicName, Violation};

/// The longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 2_000;
/// The longest owner, in bytes.
pub const MAX_OWNER_BYTES: usize = 200;
/// The shortest history of a topic, in seconds.
pub const MIN_HISTORY_SECONDS: i64 = 60;
/// The longest history of a topic, in seconds: 365 days.
pub const MAX_HISTORY_SECONDS: i64 = 31_536_000;
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
    /// How long its events are kept, in seconds; as long as the server keeps every topic's where absent.
    pub history_seconds: Option<i32>,
}

impl NewTopic {
    /// Checks name, description, owner and history.
    ///
    /// # Errors
    /// `INVALID_TOPIC` for the name, `VALIDATION_FAILED` naming the other fields.
    pub fn check(
        name: &str,
        description: &str,
        owner: &str,
        history_seconds: Option<i64>,
    ) -> Result<Self, Problem> {
        let name = TopicName::parse_registered(name)?;
        let history_seconds = check_change(Some(description), Some(owner), history_seconds)?;
        let (description, owner) = (description.trim().to_owned(), owner.trim().to_owned());
        Ok(Self { name, description, owner, history_seconds })
    }
}

/// Checks what is to be changed of a topic; answers the history's length as it is stored.
///
/// # Errors
/// `VALIDATION_FAILED` naming the fields.
pub fn check_change(
    description: Option<&str>,
    owner: Option<&str>,
    history_seconds: Option<i64>,
) -> Result<Option<i32>, Problem> {
    let fields = [("description", description, MAX_DESCRIPTION_BYTES), ("owner", owner, MAX_OWNER_BYTES)];
    let mut broken: Vec<Violation> = fields
        .into_iter()
        .filter_map(|(path, text, max)| {
            let text = text?;
            let fits = !text.trim().is_empty() && text.len() <= max;
            (!fits).then(|| {
                Violation::new(path, format!("must be a text that is not blank, of at most {max} bytes"))
            })
        })
        .collect();
    let fits = |seconds: &i64| (MIN_HISTORY_SECONDS..=MAX_HISTORY_SECONDS).contains(seconds);
    if history_seconds.is_some_and(|seconds| !fits(&seconds)) {
        let rule = format!("must be a number of seconds from {MIN_HISTORY_SECONDS} to {MAX_HISTORY_SECONDS}");
        broken.push(Violation::new("historySeconds", rule));
    }
    if !broken.is_empty() {
        return Err(Problem::fields(broken));
    }
    Ok(history_seconds.and_then(|seconds| i32::try_from(seconds).ok()))
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

/// Whether a row of an outbox may be an event of type `kind` in `topic`: of the customer's database, so that only what
/// is the documents' own is refused.
///
/// # Errors
/// `FORBIDDEN` for topics and types of documents.
pub fn check_outbox(topic: &TopicName, kind: &str) -> Result<(), Problem> {
    if topic.as_str().starts_with(SYNC) {
        return Err(Problem::forbidden("topic: what begins with sync. is published by documents only"));
    }
    if kind.starts_with(SYNC) {
        return Err(Problem::forbidden("type: what begins with sync. is the documents' own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_field_is_named() {
        let problem = check_change(Some(" "), Some(&"x".repeat(201)), Some(59)).expect_err("all");
        let paths: Vec<&str> = problem.details.iter().map(|detail| detail.path.as_str()).collect();
        assert_eq!(paths, ["description", "owner", "historySeconds"]);
        assert_eq!(NewTopic::check("session", "d", "o", None).expect_err("no dot").code, "INVALID_TOPIC");
        let topic = NewTopic::check("session.status", "d", "o", Some(60)).expect("all is well");
        assert_eq!(topic.history_seconds, Some(60));
        assert!(check_change(None, None, Some(31_536_001)).is_err());
        assert_eq!(check_change(None, None, Some(31_536_000)).expect("a year"), Some(31_536_000));
    }

    #[test]
    fn the_platforms_own_topics_and_types_are_not_published() {
        let topic = |name| TopicName::parse(name).expect("valid");
        assert!(check_publishable(&topic("order.updated"), "message").is_ok());
        assert!(check_publishable(&topic("sync.notes.updated"), "message").is_err());
        assert!(check_publishable(&topic("order.updated"), "database.insert").is_err());
        assert!(check_publishable(&topic("order.updated"), "sync.updated").is_err());
        assert!(check_publishable(&topic("order.updated"), "synced").is_ok());
        assert!(check_outbox(&topic("order.updated"), "database.insert").is_ok());
        assert!(check_outbox(&topic("sync.notes.updated"), "message").is_err());
        assert!(check_outbox(&topic("order.updated"), "sync.updated").is_err());
    }
}
