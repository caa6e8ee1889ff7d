//! What was asked for, what each reader saw of it, and whether that agrees.
//!
//! Pure: it is told what happened and when. It knows nothing of connections, processes or databases.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::source::Mark;

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

/// What became of each piece of work of one source, as whoever did it was told.
#[derive(Debug, Default)]
pub struct Ledger {
    issued: u64,
    acknowledged: BTreeSet<u64>,
    /// Where the answer said that the event stands, for sources that say it.
    places: BTreeMap<u64, Position>,
    unknown: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    complaints: BTreeMap<String, u64>,
}

impl Ledger {
    /// The key of the next piece of work: 1, 2, 3 …
    pub fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// The last key that was given.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// It was acknowledged: its event has to come.
    pub fn acknowledged(&mut self, key: u64) {
        self.acknowledged.insert(key);
    }

    /// The same, with the event's place.
    pub fn acknowledged_at(&mut self, key: u64, position: Position) {
        self.acknowledged.insert(key);
        self.places.insert(key, position);
    }

    /// No answer, or one that says that it may have taken effect: its event may come.
    pub fn unknown(&mut self, key: u64) {
        self.unknown.insert(key);
    }

    /// It has certainly not taken effect: its event must not come.
    pub fn refused(&mut self, key: u64) {
        self.refused.insert(key);
    }

    /// Notes an answer that was no success, for whoever looks for a reason.
    pub fn complain(&mut self, answer: String) {
        *self.complaints.entry(answer).or_default() += 1;
    }

    /// Answers that were no success, with how often they came.
    pub fn complaints(&self) -> &BTreeMap<String, u64> {
        &self.complaints
    }

    /// Keys of acknowledged work.
    pub fn acknowledged_keys(&self) -> &BTreeSet<u64> {
        &self.acknowledged
    }

    /// Keys of work whose outcome nobody was told.
    pub fn unknown_keys(&self) -> &BTreeSet<u64> {
        &self.unknown
    }

    /// Keys of work that did not take effect.
    pub fn refused_keys(&self) -> &BTreeSet<u64> {
        &self.refused
    }

    /// Acknowledged work whose event stands elsewhere than its answer said.
    pub fn misplaced(&self, account: &Account) -> u64 {
        let differs =
            |(key, place): &(&u64, &Position)| account.place(**key).is_some_and(|seen| seen != *place);
        self.places.iter().filter(differs).count() as u64
    }
}

/// An event that was seen.
#[derive(Debug)]
struct Seen {
    position: Position,
    id: String,
    mark: Mark,
}

/// What one reader has seen of a topic.
#[derive(Debug, Default)]
pub struct Account {
    seen: HashMap<u64, Seen>,
    at: Option<Position>,
    lanes: HashMap<u64, u64>,
    epochs: BTreeSet<String>,
    twice: BTreeSet<u64>,
    duplicated: u64,
    out_of_order: u64,
    gaps: u64,
    connections: u64,
    heard: Option<Instant>,
    silence: Duration,
    window: Option<(Instant, Duration)>,
    trouble: Option<String>,
}

impl Account {
    /// Where the reader resumes; `None` before its first answer.
    pub fn position(&self) -> Option<&Position> {
        self.at.as_ref()
    }

    /// Notes that a connection was made and answered.
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

    /// Notes an event: its place, its id, its piece of work and when it came.
    pub fn event(&mut self, position: Position, id: String, mark: Mark, now: Instant) {
        self.hear(now);
        self.epochs.insert(position.epoch.clone());
        let known = self.seen.get(&mark.key);
        if known.is_some_and(|known| known.position == position && known.id == id) {
            self.duplicated += 1;
            return self.advance(position);
        }
        let is_new = known.is_none();
        match &self.at {
            Some(at) if position.is_behind(at) => self.out_of_order += 1,
            Some(at) if !position.follows(at) => self.gaps += 1,
            _ => {}
        }
        self.advance(position.clone());
        if !is_new {
            self.twice.insert(mark.key);
            return;
        }
        let last = self.lanes.entry(mark.lane).or_default();
        if mark.ordinal <= *last {
            self.out_of_order += 1;
        }
        *last = mark.ordinal.max(*last);
        self.seen.insert(mark.key, Seen { position, id, mark });
    }

    fn advance(&mut self, position: Position) {
        if !self.at.as_ref().is_some_and(|at| position.is_behind(at)) {
            self.at = Some(position);
        }
    }

    fn hear(&mut self, now: Instant) {
        if let Some(heard) = self.heard.replace(now) {
            self.silence = self.silence.max(now.duration_since(heard));
        }
        if let Some((last, longest)) = &mut self.window {
            *longest = (*longest).max(now.duration_since(*last));
            *last = now;
        }
    }

    /// Begins to look for the longest silence from now on.
    pub fn open_window(&mut self, now: Instant) {
        self.window = Some((now, Duration::ZERO));
    }

    /// The longest silence since the window was opened.
    pub fn window_silence(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(_, longest)| longest)
    }

    /// The longest time between two events.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// Where the event of this piece of work was seen first.
    pub fn place(&self, key: u64) -> Option<&Position> {
        self.seen.get(&key).map(|seen| &seen.position)
    }

    /// Whether the event of this piece of work was seen.
    pub fn has(&self, key: u64) -> bool {
        self.seen.contains_key(&key)
    }

    /// Keys of all events that were seen.
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        self.seen.keys().copied()
    }

    /// Keys and ordinals of what was seen of one lane, in no particular order.
    pub fn of_lane(&self, lane: u64) -> impl Iterator<Item = (u64, u64)> {
        let marks = self.seen.values().map(|seen| seen.mark);
        marks.filter(move |mark| mark.lane == lane).map(|mark| (mark.key, mark.ordinal))
    }

    /// Keys that stand at two places.
    pub fn twice(&self) -> &BTreeSet<u64> {
        &self.twice
    }

    /// Events that came again at the same place, under the same id.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Events behind one that they should precede.
    pub fn out_of_order(&self) -> u64 {
        self.out_of_order
    }

    /// Epochs that it was told.
    pub fn epochs(&self) -> &BTreeSet<String> {
        &self.epochs
    }

    /// Places that were skipped, and recoveries that the server could not make.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Connections that were answered.
    pub fn connections(&self) -> u64 {
        self.connections
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
            let mark = Mark { key: *key, lane: 0, ordinal: *key };
            let now = start + Duration::from_secs(second as u64);
            account.event(at(*offset), format!("evt_{key}"), mark, now);
        }
        account
    }

    fn verdict(events: &[(u64, u64)]) -> (usize, u64, u64, u64) {
        let account = reader(events);
        (account.twice.len(), account.duplicated, account.out_of_order, account.gaps)
    }

    #[test]
    fn all_in_order_is_well() {
        assert_eq!(verdict(&[(1, 1), (2, 2), (3, 3)]), (0, 0, 0, 0));
        assert_eq!(reader(&[(1, 1), (2, 2)]).silence(), Duration::from_secs(1));
    }

    #[test]
    fn a_repeat_at_the_same_place_is_only_a_duplicate() {
        assert_eq!(verdict(&[(1, 1), (2, 2), (1, 1), (2, 2), (3, 3)]), (0, 2, 0, 0));
    }

    #[test]
    fn the_same_place_under_another_id_is_no_duplicate() {
        let mut account = reader(&[(1, 1)]);
        account.event(at(1), "evt_other".to_owned(), Mark { key: 1, lane: 0, ordinal: 1 }, Instant::now());
        assert_eq!((account.duplicated, account.twice.len(), account.out_of_order), (0, 1, 1));
    }

    #[test]
    fn a_skipped_place_is_a_gap() {
        assert_eq!(verdict(&[(1, 1), (3, 3)]), (0, 0, 0, 1));
    }

    #[test]
    fn one_key_at_two_places_was_appended_twice() {
        assert_eq!(verdict(&[(1, 1), (2, 2), (3, 2), (4, 3)]), (1, 0, 0, 0));
    }

    #[test]
    fn order_within_a_lane_and_by_place_is_looked_at() {
        assert_eq!(verdict(&[(1, 1), (2, 3), (3, 2)]), (0, 0, 1, 0));
        assert_eq!(verdict(&[(1, 1), (2, 2), (2, 3)]), (0, 0, 1, 0), "another event at a passed place");
        let mut account = reader(&[(1, 5)]);
        account.event(at(2), "evt_9".to_owned(), Mark { key: 9, lane: 1, ordinal: 1 }, Instant::now());
        assert_eq!(account.out_of_order, 0, "lanes have orders of their own");
        assert_eq!(account.of_lane(1).collect::<Vec<_>>(), [(9, 1)]);
    }

    #[test]
    fn a_new_epoch_is_a_gap_and_counted() {
        let mut account = reader(&[(1, 1), (2, 2)]);
        let position = Position { epoch: "e2".to_owned(), offset: 1 };
        account.event(position, "evt_3".to_owned(), Mark { key: 3, lane: 0, ordinal: 3 }, Instant::now());
        assert_eq!((account.gaps, account.epochs().len()), (1, 2));
    }

    #[test]
    fn a_place_that_was_acknowledged_is_compared() {
        let mut ledger = Ledger::default();
        ledger.acknowledged_at(1, at(1));
        ledger.acknowledged_at(2, at(7));
        ledger.acknowledged_at(3, at(3));
        assert_eq!(
            ledger.misplaced(&reader(&[(1, 1), (2, 2)])),
            1,
            "what has not come is lost, not misplaced"
        );
    }

    #[test]
    fn the_window_knows_only_what_is_in_it() {
        let start = Instant::now();
        let mut account = reader(&[(1, 1)]);
        account.open_window(start + Duration::from_secs(100));
        let mark = |key| Mark { key, lane: 0, ordinal: key };
        account.event(at(2), "evt_2".to_owned(), mark(2), start + Duration::from_secs(103));
        account.event(at(3), "evt_3".to_owned(), mark(3), start + Duration::from_secs(104));
        assert_eq!(account.window_silence(), Duration::from_secs(3));
    }
}
