//! What the accounts of one source come to: the accounting line, and whether it is as it has to be.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::account::{Account, Ledger};
use super::source::Source;

/// Whether a reader has to have everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It resumes where it stood, or reads the history: nothing may be missing.
    Resilient,
    /// It subscribes anew each time and misses what happens meanwhile; what it has must be right.
    Bare,
}

/// One reader's account.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Who: `websocket`, `socketio`, `sse`, `history`, `bare`.
    pub name: &'static str,
    /// What is expected of it.
    pub kind: Kind,
    /// What it has seen.
    pub account: &'a Account,
}

/// What one reader's account comes to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReaderOutcome {
    /// Who.
    pub reader: &'static str,
    /// Pieces of work whose event came.
    pub received: u64,
    /// Those that had to come and did not; always 0 for one that does not resume.
    pub lost: u64,
    /// Events that came again at the same place under the same id.
    pub duplicated: u64,
    /// Keys that stand at two places.
    pub twice: u64,
    /// Events behind one that they should precede.
    pub out_of_order: u64,
    /// Epochs that it was told.
    pub epochs: u64,
    /// Places that were skipped, and recoveries that the server could not make.
    pub gaps: u64,
    /// Connections that were answered.
    pub connections: u64,
    /// The longest time between two events.
    pub longest_silence_seconds: f64,
}

/// How often which part was killed, or asked to stop, by name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Toll {
    /// SIGKILL.
    pub kills: BTreeMap<&'static str, u64>,
    /// SIGTERM.
    pub stops: BTreeMap<&'static str, u64>,
}

impl Toll {
    /// All kills together.
    pub fn killed(&self) -> u64 {
        self.kills.values().sum()
    }
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kills {}", self.killed())?;
        let list = |counts: &BTreeMap<&str, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        if !self.kills.is_empty() {
            write!(f, " ({})", list(&self.kills))?;
        }
        if !self.stops.is_empty() {
            write!(f, ", graceful stops {} ({})", self.stops.values().sum::<u64>(), list(&self.stops))?;
        }
        Ok(())
    }
}

/// What one source's accounts come to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceOutcome {
    /// `postgres`, `redis` or `single`.
    pub mode: &'static str,
    /// `database`, `outbox`, `sync` or `socket`.
    pub source: &'static str,
    /// Pieces of work that were acknowledged.
    pub acknowledged: u64,
    /// Those of them whose event every resilient reader has.
    pub delivered: u64,
    /// What has to have come (because it was acknowledged, or because the history has it) and some resilient
    /// reader lacks.
    pub lost: u64,
    /// Events that came again at the same place under the same id; all readers together.
    pub duplicated_by_id: u64,
    /// Keys that stand at two places of the history.
    pub appended_twice: u64,
    /// Events behind one that they should precede, or elsewhere than acknowledged; all readers together.
    pub out_of_order: u64,
    /// Different epochs that the readers were told.
    pub epochs: u64,
    /// All readers together.
    pub gaps: u64,
    /// The longest time that a live, resilient reader heard nothing.
    pub longest_silence_seconds: f64,
    /// Pieces of work whose outcome nobody was told.
    pub unknown: u64,
    /// Those of them whose event came.
    pub unknown_came: u64,
    /// Pieces of work that were rolled back or refused.
    pub refused: u64,
    /// Events of work that was rolled back, refused or never done.
    pub unasked: u64,
    /// What was killed meanwhile.
    pub toll: Toll,
    /// Each reader's own.
    pub readers: Vec<ReaderOutcome>,
}

impl SourceOutcome {
    /// Sums up.
    pub fn new(
        mode: &'static str,
        source: Source,
        ledger: &Ledger,
        readings: &[Reading<'_>],
        toll: &Toll,
    ) -> Self {
        let wanted = wanted(ledger, readings);
        let readers: Vec<ReaderOutcome> =
            readings.iter().map(|reading| reader_outcome(reading, &wanted)).collect();
        let resilient: Vec<&Reading<'_>> = resilient(readings).collect();
        let acknowledged = ledger.acknowledged_keys();
        let delivered = acknowledged.len() as u64 - lost(acknowledged, readings);
        let twice: BTreeSet<u64> =
            readings.iter().flat_map(|reading| reading.account.twice()).copied().collect();
        let epochs: BTreeSet<&String> =
            readings.iter().flat_map(|reading| reading.account.epochs()).collect();
        let seen: BTreeSet<u64> = readings.iter().flat_map(|reading| reading.account.keys()).collect();
        let misplaced: u64 = readings.iter().map(|reading| ledger.misplaced(reading.account)).sum();
        Self {
            mode,
            source: source.name(),
            acknowledged: acknowledged.len() as u64,
            delivered,
            lost: lost(&wanted, readings),
            duplicated_by_id: readers.iter().map(|reader| reader.duplicated).sum(),
            appended_twice: twice.len() as u64,
            out_of_order: readers.iter().map(|reader| reader.out_of_order).sum::<u64>() + misplaced,
            epochs: epochs.len() as u64,
            gaps: readers.iter().map(|reader| reader.gaps).sum(),
            longest_silence_seconds: resilient
                .iter()
                .filter(|reading| reading.name != "history")
                .map(|reading| reading.account.silence().as_secs_f64())
                .fold(0.0, f64::max),
            unknown: ledger.unknown_keys().len() as u64,
            unknown_came: ledger.unknown_keys().intersection(&seen).count() as u64,
            refused: ledger.refused_keys().len() as u64,
            unasked: seen.iter().filter(|key| !is_known(ledger, **key)).count() as u64,
            toll: toll.clone(),
            readers,
        }
    }

    /// Whether everything is as promised, and there was something to promise.
    pub fn holds(&self) -> bool {
        let wrong = [self.lost, self.appended_twice, self.out_of_order, self.gaps, self.unasked];
        self.acknowledged > 0 && self.toll.killed() > 0 && self.epochs == 1 && wrong == [0; 5]
    }
}

fn is_known(ledger: &Ledger, key: u64) -> bool {
    ledger.acknowledged_keys().contains(&key) || ledger.unknown_keys().contains(&key)
}

fn resilient<'a, 'b>(readings: &'a [Reading<'b>]) -> impl Iterator<Item = &'a Reading<'b>> {
    readings.iter().filter(|reading| reading.kind == Kind::Resilient)
}

/// What every resilient reader has to have: what was acknowledged, and what any of them has.
pub fn wanted(ledger: &Ledger, readings: &[Reading<'_>]) -> BTreeSet<u64> {
    let seen = resilient(readings).flat_map(|reading| reading.account.keys());
    ledger.acknowledged_keys().iter().copied().chain(seen).collect()
}

/// How many of these some resilient reader lacks.
pub fn lost(keys: &BTreeSet<u64>, readings: &[Reading<'_>]) -> u64 {
    let lacks = |key: &&u64| resilient(readings).any(|reading| !reading.account.has(**key));
    keys.iter().filter(lacks).count() as u64
}

/// What of it a reader lacks.
pub fn missing(reading: &Reading<'_>, wanted: &BTreeSet<u64>) -> Vec<u64> {
    match reading.kind {
        Kind::Resilient => wanted.iter().copied().filter(|key| !reading.account.has(*key)).collect(),
        Kind::Bare => Vec::new(),
    }
}

fn reader_outcome(reading: &Reading<'_>, wanted: &BTreeSet<u64>) -> ReaderOutcome {
    let account = reading.account;
    ReaderOutcome {
        reader: reading.name,
        received: account.keys().count() as u64,
        lost: missing(reading, wanted).len() as u64,
        duplicated: account.duplicated(),
        twice: account.twice().len() as u64,
        out_of_order: account.out_of_order(),
        epochs: account.epochs().len() as u64,
        gaps: account.gaps(),
        connections: account.connections(),
        longest_silence_seconds: account.silence().as_secs_f64(),
    }
}

impl fmt::Display for SourceOutcome {
    /// The accounting line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: acknowledged {}, delivered {}, lost {}, duplicated by id {}, appended twice {}, \
             out of order {}, epochs {}, gaps {}, unknown {} (came {}), unasked {}, longest silence {:.1} s, {}",
            self.mode,
            self.source,
            self.acknowledged,
            self.delivered,
            self.lost,
            self.duplicated_by_id,
            self.appended_twice,
            self.out_of_order,
            self.epochs,
            self.gaps,
            self.unknown,
            self.unknown_came,
            self.unasked,
            self.longest_silence_seconds,
            self.toll
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::account::Position;
    use crate::drill::source::Mark;
    use std::time::Instant;

    fn account(events: &[(u64, u64)]) -> Account {
        let mut account = Account::default();
        let position = |offset| Position { epoch: "e".to_owned(), offset };
        account.stands_at(position(0));
        for (offset, key) in events {
            let mark = Mark { key: *key, lane: 0, ordinal: *key };
            account.event(position(*offset), format!("evt_{key}"), mark, Instant::now());
        }
        account
    }

    fn ledger(acknowledged: &[u64], unknown: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        acknowledged.iter().for_each(|key| ledger.acknowledged(*key));
        unknown.iter().for_each(|key| ledger.unknown(*key));
        ledger
    }

    fn toll() -> Toll {
        Toll { kills: [("backend", 2), ("redis", 1)].into(), stops: [("workers", 1)].into() }
    }

    fn outcome(ledger: &Ledger, websocket: &Account, bare: &Account) -> SourceOutcome {
        let readings = [
            Reading { name: "websocket", kind: Kind::Resilient, account: websocket },
            Reading { name: "bare", kind: Kind::Bare, account: bare },
        ];
        SourceOutcome::new("redis", Source::Socket, ledger, &readings, &toll())
    }

    #[test]
    fn a_bare_client_may_miss_but_not_have_twice() {
        let all = account(&[(1, 1), (2, 2), (3, 3)]);
        let whole = outcome(&ledger(&[1, 2], &[3, 4]), &all, &account(&[(1, 1)]));
        assert!(whole.holds(), "{whole}");
        assert_eq!((whole.delivered, whole.unknown, whole.unknown_came), (2, 2, 1));
        assert_eq!(
            whole.to_string(),
            "redis socket: acknowledged 2, delivered 2, lost 0, duplicated by id 0, appended twice 0, out of order 0, \
             epochs 1, gaps 0, unknown 2 (came 1), unasked 0, longest silence 0.0 s, kills 3 (backend 2, redis 1), \
             graceful stops 1 (workers 1)"
        );
        let twice = outcome(&ledger(&[1, 2], &[3]), &all, &account(&[(1, 1), (2, 1)]));
        assert_eq!(twice.appended_twice, 1);
        assert!(!twice.holds());
    }

    #[test]
    fn what_was_acknowledged_and_does_not_come_is_lost() {
        let outcome = outcome(&ledger(&[1, 2], &[]), &account(&[(1, 1)]), &account(&[]));
        assert_eq!((outcome.delivered, outcome.lost), (1, 1));
        assert!(!outcome.holds());
    }

    #[test]
    fn what_one_reader_has_all_must_have() {
        let (full, half) = (account(&[(1, 1), (2, 2)]), account(&[(1, 1)]));
        let ledger = ledger(&[1], &[2]);
        let readings = [
            Reading { name: "websocket", kind: Kind::Resilient, account: &half },
            Reading { name: "history", kind: Kind::Resilient, account: &full },
        ];
        let outcome = SourceOutcome::new("postgres", Source::Sync, &ledger, &readings, &toll());
        assert_eq!((outcome.delivered, outcome.lost), (1, 1));
        assert_eq!(missing(&readings[0], &wanted(&ledger, &readings)), [2]);
    }

    #[test]
    fn what_was_rolled_back_must_not_come() {
        let mut ledger = ledger(&[1], &[]);
        ledger.refused(2);
        let outcome = outcome(&ledger, &account(&[(1, 1), (2, 2)]), &account(&[]));
        assert_eq!((outcome.refused, outcome.unasked), (1, 1));
        assert!(!outcome.holds());
    }

    #[test]
    fn an_event_elsewhere_than_acknowledged_is_out_of_order() {
        let mut ledger = Ledger::default();
        ledger.acknowledged_at(1, Position { epoch: "e".to_owned(), offset: 2 });
        let outcome = outcome(&ledger, &account(&[(1, 1)]), &account(&[]));
        assert_eq!(outcome.out_of_order, 1);
        assert!(!outcome.holds());
    }

    #[test]
    fn a_drill_without_work_or_kills_shows_nothing() {
        assert!(!outcome(&ledger(&[], &[]), &account(&[]), &account(&[])).holds());
        let readings = [Reading { name: "websocket", kind: Kind::Resilient, account: &account(&[(1, 1)]) }];
        let quiet =
            SourceOutcome::new("redis", Source::Socket, &ledger(&[1], &[]), &readings, &Toll::default());
        assert!(!quiet.holds());
    }
}
