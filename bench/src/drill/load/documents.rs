//! Documents: several writers increment and merge the same few, and at the end each must hold what its events say.
//!
//! A write whose outcome nobody was told is not repeated: its event may come, and then it counts.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Answer, Api, Book, Going, Pace};
use crate::drill::account::Account;
use crate::drill::chaos::Chance;
use crate::drill::source::SERVICE;
use crate::link::Endpoint;

/// So many documents.
const DOCUMENTS: u64 = 6;
/// So many writers, each of which writes to all documents.
const WRITERS: u64 = 4;
/// How long a document may not be readable or writable.
const AWAY_LIMIT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(200);

/// The documents of the drill.
pub struct Documents {
    api: Api,
    book: Book,
}

impl Documents {
    /// Creates them.
    ///
    /// # Errors
    /// The platform refuses, or stays away.
    pub async fn create(endpoint: &Endpoint, book: Book) -> Result<Rc<Self>> {
        let api = Api::new(endpoint)?;
        for number in 0..DOCUMENTS {
            let body = json!({ "id": format!("d{number}"), "data": { "count": 0, "key": 0 } });
            let path = format!("/api/sync/{SERVICE}/documents");
            match api.send(reqwest::Method::POST, &path, &body, None).await {
                Answer::Done(_) => {}
                Answer::Refused(said) | Answer::Unknown(said) => bail!("a document was not created: {said}"),
            }
        }
        Ok(Rc::new(Self { api, book }))
    }

    /// The writers, `rate` writes a second together, until told to end.
    pub fn writers(
        self: &Rc<Self>,
        rate: f64,
        seed: u64,
        going: &Going,
    ) -> impl Iterator<Item = impl Future<Output = Result<()>> + 'static> {
        let (documents, going) = (Rc::clone(self), going.clone());
        (0..WRITERS).map(move |writer| {
            let chance = Chance::new(seed ^ (writer + 1) << 32);
            Rc::clone(&documents).write(writer, rate / WRITERS as f64, chance, going.clone())
        })
    }

    async fn write(self: Rc<Self>, writer: u64, rate: f64, mut chance: Chance, going: Going) -> Result<()> {
        let mut pace = Pace::new(rate);
        loop {
            pace.next(1).await;
            if !going.is_on() {
                return Ok(());
            }
            let (key, document) = (self.book.borrow_mut().issue(), chance.below(DOCUMENTS));
            let answer = self.send(key, document, writer).await;
            let mut book = self.book.borrow_mut();
            match answer {
                Answer::Done(_) => book.acknowledged(key),
                Answer::Refused(said) => {
                    book.refused(key);
                    book.complain(said);
                }
                Answer::Unknown(said) => {
                    book.unknown(key);
                    book.complain(said);
                }
            }
        }
    }

    async fn send(&self, key: u64, document: u64, writer: u64) -> Answer {
        let document = format!("/api/sync/{SERVICE}/documents/d{document}");
        if is_increment(key) {
            let mutations = json!({ "mutations": [
                { "op": "increment", "path": "/count", "value": 1 },
                { "op": "set", "path": "/key", "value": key },
            ] });
            return self
                .api
                .send(reqwest::Method::POST, &format!("{document}/mutate"), &mutations, None)
                .await;
        }
        let merge = json!({ "data": { "key": key, "writers": { format!("w{writer}"): key } } });
        self.api.send(reqwest::Method::PATCH, &format!("{document}/merge"), &merge, None).await
    }

    /// What all documents hold now.
    ///
    /// # Errors
    /// One cannot be read for long.
    pub async fn read(&self) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for number in 0..DOCUMENTS {
            held.push(self.until_answered(reqwest::Method::GET, number, "", &Value::Null, None).await?);
        }
        Ok(held)
    }

    /// Writes to all documents once more, answered only when they are committed; what they then hold.
    ///
    /// # Errors
    /// One cannot be written for long.
    pub async fn commit(&self) -> Result<Vec<Held>> {
        let mut held = Vec::new();
        for number in 0..DOCUMENTS {
            let body = json!({ "data": { "committed": true } });
            let method = reqwest::Method::PATCH;
            held.push(self.until_answered(method, number, "/merge", &body, Some("committed")).await?);
        }
        Ok(held)
    }

    async fn until_answered(
        &self,
        method: reqwest::Method,
        number: u64,
        action: &str,
        body: &Value,
        durability: Option<&str>,
    ) -> Result<Held> {
        let path = format!("/api/sync/{SERVICE}/documents/d{number}{action}");
        let deadline = Instant::now() + AWAY_LIMIT;
        loop {
            let said = match self.api.send(method.clone(), &path, body, durability).await {
                Answer::Done(document) => return Held::of(number, &document),
                Answer::Refused(said) | Answer::Unknown(said) => said,
            };
            if Instant::now() > deadline {
                bail!("document d{number} cannot be had: {said}");
            }
            sleep(RETRY).await;
        }
    }

    /// Compares the documents with their events.
    pub fn compare(&self, held: &[Held], events: &Account) -> DocumentsOutcome {
        let book = self.book.borrow();
        let mut outcome = DocumentsOutcome { documents: held.len() as u64, ..DocumentsOutcome::default() };
        outcome.increments = held.iter().map(|document| document.count).sum();
        let increments = |keys: &std::collections::BTreeSet<u64>| {
            keys.iter().filter(|key| is_increment(**key)).count() as u64
        };
        outcome.acknowledged = increments(book.acknowledged_keys());
        outcome.unknown = increments(book.unknown_keys());
        outcome.disagreeing = held.iter().filter(|document| !document.agrees_with(events)).count() as u64;
        outcome
    }
}

/// Every other write is one; the rest are merges.
const fn is_increment(key: u64) -> bool {
    key.is_multiple_of(2)
}

/// What a document holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    number: u64,
    revision: u64,
    count: u64,
}

impl Held {
    fn of(number: u64, document: &Value) -> Result<Self> {
        let revision = document["revision"].as_u64().context("a document has a revision")?;
        let count = document["data"]["count"].as_u64().context("a document of the drill has a count")?;
        Ok(Self { number, revision, count })
    }

    /// Whether there is one event for each revision behind the first, and one increment for each that counts.
    fn agrees_with(&self, events: &Account) -> bool {
        let (mut increments, mut revisions) = (0, std::collections::BTreeSet::new());
        for (key, revision) in events.of_lane(self.number) {
            increments += u64::from(is_increment(key));
            revisions.insert(revision);
        }
        increments == self.count && revisions.into_iter().eq(2..=self.revision)
    }

    /// Whether it has everything that an earlier state of it had.
    pub fn continues(&self, earlier: &Self) -> bool {
        self.number == earlier.number && self.revision >= earlier.revision && self.count >= earlier.count
    }
}

/// What the documents come to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DocumentsOutcome {
    /// How many there are.
    pub documents: u64,
    /// Increments that they hold.
    pub increments: u64,
    /// Increments that were acknowledged.
    pub acknowledged: u64,
    /// Increments whose outcome nobody was told.
    pub unknown: u64,
    /// Documents that differ from what their events say.
    pub disagreeing: u64,
}

impl DocumentsOutcome {
    /// Whether every acknowledged increment counts, once, and the documents are as their events say.
    pub fn holds(&self) -> bool {
        let possible = self.acknowledged..=self.acknowledged + self.unknown;
        self.disagreeing == 0 && possible.contains(&self.increments)
    }
}

impl std::fmt::Display for DocumentsOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { documents, increments, acknowledged, unknown, disagreeing } = self;
        write!(
            f,
            "{documents} documents hold {increments} increments: acknowledged {acknowledged}, unknown {unknown}; \
             documents that differ from their events {disagreeing}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::account::Position;
    use crate::drill::source::Mark;
    use std::time::Instant;

    fn events(marks: &[(u64, u64)]) -> Account {
        let mut account = Account::default();
        for (offset, (key, revision)) in marks.iter().enumerate() {
            let position = Position { epoch: "e".to_owned(), offset: offset as u64 + 1 };
            let mark = Mark { key: *key, lane: 3, ordinal: *revision };
            account.event(position, format!("evt_{key}"), mark, Instant::now());
        }
        account
    }

    #[test]
    fn a_document_is_what_its_events_say() {
        let held = |revision, count| Held { number: 3, revision, count };
        let seen = events(&[(1, 2), (2, 3), (4, 4)]);
        assert!(held(4, 2).agrees_with(&seen));
        assert!(!held(4, 3).agrees_with(&seen), "an increment counted twice");
        assert!(!held(5, 2).agrees_with(&seen), "a revision without its event");
        assert!(!held(3, 2).agrees_with(&seen), "an event without its revision");
        assert!(held(1, 0).agrees_with(&events(&[])));
        assert!(held(5, 2).continues(&held(4, 2)) && !held(3, 2).continues(&held(4, 2)));
    }

    #[test]
    fn increments_lie_between_what_is_certain_and_what_is_possible() {
        let outcome = |increments, disagreeing| DocumentsOutcome {
            documents: 1,
            increments,
            acknowledged: 5,
            unknown: 2,
            disagreeing,
        };
        for (increments, holds) in [(4, false), (5, true), (7, true), (8, false)] {
            assert_eq!(outcome(increments, 0).holds(), holds, "{increments}");
        }
        assert!(!outcome(5, 1).holds());
    }
}
