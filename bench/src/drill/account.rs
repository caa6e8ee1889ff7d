//! What was committed, what each reader saw of it, and what that comes to.
//!
//! Pure: it is told what happened and when. It knows nothing of connections, processes or databases.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Which rows the database has acknowledged, by their keys.
#[derive(Debug, Default)]
pub struct Ledger {
    committed: BTreeSet<u64>,
    rolled_back: BTreeSet<u64>,
}

impl Ledger {
    /// Notes the rows of a transaction whose commit was acknowledged.
    pub fn committed(&mut self, keys: std::ops::RangeInclusive<u64>) {
        self.committed.extend(keys);
    }

    /// Notes the rows of a transaction that was rolled back.
    pub fn rolled_back(&mut self, keys: std::ops::RangeInclusive<u64>) {
        self.rolled_back.extend(keys);
    }
}

/// A place in a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The history that the offset counts in.
    pub epoch: String,
    /// Events so far.
    pub offset: u64,
}

impl Position {
    fn follows(&self, earlier: &Self) -> bool {
        self.epoch == earlier.epoch && self.offset == earlier.offset + 1
    }

    fn is_behind(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.offset <= other.offset
    }
}

/// What one reader has seen of the topic.
#[derive(Debug, Default)]
pub struct Account {
    /// Each key with the place where it was seen first.
    seen: HashMap<u64, Position>,
    at: Option<Position>,
    highest: Option<u64>,
    epochs: BTreeSet<String>,
    twice: BTreeSet<u64>,
    redelivered: u64,
    out_of_order: u64,
    gaps: u64,
    connections: u64,
    heard: Option<Instant>,
    silence: Duration,
    trouble: Option<String>,
}

impl Account {
    /// Where the reader resumes; `None` before its first answer.
    pub fn position(&self) -> Option<&Position> {
        self.at.as_ref()
    }

    /// Notes that a connection was made and answered, so far.
    pub fn connected(&mut self) {
        self.connections += 1;
    }

    /// Notes where the server says that the reader stands, everything before it delivered.
    pub fn stands_at(&mut self, position: Position) {
        self.epochs.insert(position.epoch.clone());
        self.at = Some(position);
    }

    /// Notes that the server could not recover from where the reader stood, or said that events are missing.
    pub fn gap(&mut self) {
        self.gaps += 1;
    }

    /// Notes why the last connection ended or could not be made.
    pub fn trouble(&mut self, reason: String) {
        self.trouble = Some(reason);
    }

    /// Why the last connection ended or could not be made.
    pub fn last_trouble(&self) -> &str {
        self.trouble.as_deref().unwrap_or("nothing went wrong")
    }

    /// Notes an event: its place, the key of its row and when it came.
    pub fn event(&mut self, position: Position, key: u64, now: Instant) {
        if let Some(heard) = self.heard.replace(now) {
            self.silence = self.silence.max(now.duration_since(heard));
        }
        self.epochs.insert(position.epoch.clone());
        match &self.at {
            Some(at) if position.is_behind(at) => return self.event_behind(position, key),
            Some(at) if !position.follows(at) => self.gaps += 1,
            _ => {}
        }
        self.at = Some(position.clone());
        self.key(position, key);
    }

    /// An event whose place was passed already: the same one again, or one that contradicts the order.
    fn event_behind(&mut self, position: Position, key: u64) {
        if self.seen.get(&key) == Some(&position) {
            self.redelivered += 1;
        } else {
            self.out_of_order += 1;
            self.key(position, key);
        }
    }

    fn key(&mut self, position: Position, key: u64) {
        if self.seen.contains_key(&key) {
            self.twice.insert(key);
            return;
        }
        self.seen.insert(key, position);
        if self.highest.is_some_and(|highest| key < highest) {
            self.out_of_order += 1;
        }
        self.highest = self.highest.max(Some(key));
    }

    /// Committed rows that it has not seen.
    pub fn missing<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = u64> + 'a {
        ledger.committed.iter().copied().filter(|key| !self.seen.contains_key(key))
    }

    /// Rows that it has seen at two places.
    pub fn twice(&self) -> impl Iterator<Item = u64> {
        self.twice.iter().copied()
    }

    fn outcome(&self, name: &'static str, ledger: &Ledger) -> ReaderOutcome {
        ReaderOutcome {
            reader: name,
            received: self.seen.len() as u64,
            lost: self.missing(ledger).count() as u64,
            twice: self.twice.len() as u64,
            redelivered: self.redelivered,
            out_of_order: self.out_of_order,
            never_committed: self.seen.keys().filter(|key| !ledger.committed.contains(key)).count() as u64,
            epochs: self.epochs.len() as u64,
            gaps: self.gaps,
            connections: self.connections,
            longest_silence_seconds: self.silence.as_secs_f64(),
        }
    }
}

/// What one reader's account comes to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReaderOutcome {
    /// Who: `websocket`, `sse`, or the whole `history` read at the end.
    pub reader: &'static str,
    /// Rows that came.
    pub received: u64,
    /// Committed rows that did not.
    pub lost: u64,
    /// Rows that stand at two places of the history.
    pub twice: u64,
    /// Events that came again at the same place, which a reader may recognize by it.
    pub redelivered: u64,
    /// Events behind one that comes after them, by place or by key.
    pub out_of_order: u64,
    /// Rows that came although no commit of them was acknowledged.
    pub never_committed: u64,
    /// Epochs that it was told.
    pub epochs: u64,
    /// Places that were skipped, and recoveries that the server could not make.
    pub gaps: u64,
    /// Connections that were answered.
    pub connections: u64,
    /// The longest time between two events.
    pub longest_silence_seconds: f64,
}

/// What the whole drill comes to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Rows whose commit was acknowledged.
    pub committed: u64,
    /// Rows that were inserted and rolled back.
    pub rolled_back: u64,
    /// Rows that every reader received.
    pub received: u64,
    /// Committed rows that some reader did not receive.
    pub lost: u64,
    /// Rows that stand at two places of the history.
    pub appended_twice: u64,
    /// The readers' sum.
    pub out_of_order: u64,
    /// Different epochs that the readers were told.
    pub epochs: u64,
    /// The readers' sum.
    pub gaps: u64,
    /// Times that the platform was killed.
    pub kills: u64,
    /// The longest time that a live reader heard nothing.
    pub longest_silence_seconds: f64,
    /// Rows that came although no commit of them was acknowledged.
    pub never_committed: u64,
    /// Each reader's own.
    pub readers: Vec<ReaderOutcome>,
}

impl Outcome {
    /// Sums up.
    pub fn new(ledger: &Ledger, kills: u64, accounts: &[(&'static str, &Account)]) -> Self {
        let readers: Vec<ReaderOutcome> =
            accounts.iter().map(|(name, account)| account.outcome(name, ledger)).collect();
        let everywhere = |key: &u64| accounts.iter().all(|(_, account)| account.seen.contains_key(key));
        let received = ledger.committed.iter().filter(|key| everywhere(key)).count() as u64;
        let union = |part: fn(&Account) -> &BTreeSet<u64>| {
            accounts.iter().flat_map(|(_, account)| part(account)).collect::<BTreeSet<_>>().len() as u64
        };
        let epochs: BTreeSet<&String> = accounts.iter().flat_map(|(_, account)| &account.epochs).collect();
        Self {
            committed: ledger.committed.len() as u64,
            rolled_back: ledger.rolled_back.len() as u64,
            received,
            lost: ledger.committed.len() as u64 - received,
            appended_twice: union(|account| &account.twice),
            out_of_order: readers.iter().map(|reader| reader.out_of_order).sum(),
            epochs: epochs.len() as u64,
            gaps: readers.iter().map(|reader| reader.gaps).sum(),
            kills,
            longest_silence_seconds: readers.iter().map(|r| r.longest_silence_seconds).fold(0.0, f64::max),
            never_committed: readers.iter().map(|reader| reader.never_committed).max().unwrap_or(0),
            readers,
        }
    }

    /// Whether everything is as promised, and there was something to promise.
    pub fn holds(&self) -> bool {
        self.committed > 0
            && self.kills > 0
            && self.epochs == 1
            && [self.lost, self.appended_twice, self.out_of_order, self.gaps, self.never_committed] == [0; 5]
    }
}

impl fmt::Display for Outcome {
    /// The accounting line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed {}, received {}, lost {}, appended twice {}, out of order {}, epochs {}, gaps {}, \
             kills {}, longest silence {:.1} s, never committed {}",
            self.committed,
            self.received,
            self.lost,
            self.appended_twice,
            self.out_of_order,
            self.epochs,
            self.gaps,
            self.kills,
            self.longest_silence_seconds,
            self.never_committed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position { epoch: "e1".to_owned(), offset }
    }

    /// Events one second apart, each (offset, key).
    fn reader(events: &[(u64, u64)]) -> Account {
        let start = Instant::now();
        let mut account = Account::default();
        account.stands_at(at(0));
        for (second, (offset, key)) in events.iter().enumerate() {
            account.event(at(*offset), *key, start + Duration::from_secs(second as u64));
        }
        account
    }

    fn ledger(last: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.committed(1..=last);
        ledger
    }

    fn outcome(events: &[(u64, u64)]) -> Outcome {
        Outcome::new(&ledger(3), 1, &[("websocket", &reader(events))])
    }

    #[test]
    fn all_in_order_holds() {
        let outcome = outcome(&[(1, 1), (2, 2), (3, 3)]);
        assert!(outcome.holds(), "{outcome}");
        assert_eq!(
            outcome.to_string(),
            "committed 3, received 3, lost 0, appended twice 0, out of order 0, epochs 1, gaps 0, kills 1, \
             longest silence 1.0 s, never committed 0"
        );
    }

    #[test]
    fn a_repeat_at_the_same_place_is_only_a_redelivery() {
        let outcome = outcome(&[(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)]);
        assert!(outcome.holds(), "{outcome}");
        assert_eq!(outcome.readers[0].redelivered, 2);
    }

    #[test]
    fn a_missing_row_is_lost_and_its_place_a_gap() {
        let outcome = outcome(&[(1, 1), (3, 3)]);
        assert_eq!((outcome.received, outcome.lost, outcome.gaps), (2, 1, 1));
        assert!(!outcome.holds());
    }

    #[test]
    fn a_row_at_two_places_was_appended_twice() {
        let outcome = outcome(&[(1, 1), (2, 2), (3, 2), (4, 3)]);
        assert_eq!((outcome.lost, outcome.appended_twice, outcome.out_of_order), (0, 1, 0));
        assert!(!outcome.holds());
    }

    #[test]
    fn rows_against_the_order_of_commits_are_counted() {
        let outcome = outcome(&[(1, 1), (2, 3), (3, 2)]);
        assert_eq!((outcome.lost, outcome.out_of_order), (0, 1));
        assert!(!outcome.holds());
    }

    #[test]
    fn another_row_at_a_passed_place_is_out_of_order() {
        let outcome = outcome(&[(1, 1), (2, 2), (2, 3)]);
        assert_eq!((outcome.lost, outcome.out_of_order), (0, 1));
    }

    #[test]
    fn a_new_epoch_fails_the_drill() {
        let mut account = reader(&[(1, 1), (2, 2)]);
        account.stands_at(Position { epoch: "e2".to_owned(), offset: 0 });
        account.event(Position { epoch: "e2".to_owned(), offset: 1 }, 3, Instant::now());
        let outcome = Outcome::new(&ledger(3), 1, &[("sse", &account)]);
        assert_eq!((outcome.lost, outcome.epochs), (0, 2));
        assert!(!outcome.holds());
    }

    #[test]
    fn what_was_rolled_back_must_not_come() {
        let mut ledger = ledger(2);
        ledger.rolled_back(3..=3);
        let outcome = Outcome::new(&ledger, 1, &[("history", &reader(&[(1, 1), (2, 2), (3, 3)]))]);
        assert_eq!((outcome.lost, outcome.never_committed, outcome.rolled_back), (0, 1, 1));
        assert!(!outcome.holds());
    }

    #[test]
    fn a_row_counts_as_received_only_where_every_reader_has_it() {
        let (all, some) = (reader(&[(1, 1), (2, 2), (3, 3)]), reader(&[(1, 1), (2, 2)]));
        let outcome = Outcome::new(&ledger(3), 1, &[("websocket", &all), ("sse", &some)]);
        assert_eq!((outcome.received, outcome.lost), (2, 1));
        assert_eq!(some.missing(&ledger(3)).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_drill_without_rows_or_kills_shows_nothing() {
        let account = reader(&[]);
        assert!(!Outcome::new(&Ledger::default(), 1, &[("websocket", &account)]).holds());
        assert!(!Outcome::new(&ledger(1), 0, &[("websocket", &reader(&[(1, 1)]))]).holds());
    }
}
