//! Redis is set back to an older copy of its files, on purpose: every epoch has to change, everybody has to be told,
//! and no committed document may be lost.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::time::sleep;

use super::account::Position;
use super::crew::Crew;
use super::load::Going;
use super::outcome::lost;
use super::source::Source;
use super::stack::Stack;
use super::{drive, until_within};

/// How long work goes on afterwards, to show that it does.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// How long it may take until everybody is told, though nothing happens in the topics.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// What became of it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackOutcome {
    /// Readers that had a position.
    pub readers: u64,
    /// Those of them that were told of a new epoch.
    pub told: u64,
    /// Documents that were committed before.
    pub documents: u64,
    /// Those of them that hold less now.
    pub documents_lost: u64,
    /// Pieces of work that were acknowledged afterwards.
    pub acknowledged_afterwards: u64,
    /// Those of them whose event some reader lacks.
    pub lost_afterwards: u64,
}

impl RollbackOutcome {
    /// Whether everything is as promised.
    pub fn holds(&self) -> bool {
        self.readers > 0
            && self.told == self.readers
            && self.documents > 0
            && self.acknowledged_afterwards > 0
            && [self.documents_lost, self.lost_afterwards] == [0; 2]
    }
}

impl fmt::Display for RollbackOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "redis set back to an older file: told of a new epoch {} of {} readers, committed documents lost {} of {}; \
             afterwards acknowledged {}, lost {}",
            self.told,
            self.readers,
            self.documents_lost,
            self.documents,
            self.acknowledged_afterwards,
            self.lost_afterwards
        )
    }
}

/// Sets Redis back and looks what follows.
///
/// # Errors
/// Something does not come back.
pub async fn set_back(stack: &mut Stack, crew: &mut Crew, rate: f64, seed: u64) -> Result<RollbackOutcome> {
    let committed = crew.commit_documents().await?;
    sleep(AFTERWARDS / 3).await;
    let before = crew.positions();
    stack.set_redis_back().await?;
    let waited = until_within(TOLD_WITHIN, stack, "all readers are told of a new epoch", async |_| {
        match untold(&before, crew).len() {
            0 => Ok(()),
            some => bail!("{some} are not"),
        }
    })
    .await;
    let untold = untold(&before, crew);
    if let Err(error) = waited {
        eprintln!("{error:#}: {}", untold.join(", "));
    }
    let readers = before.len() as u64;
    let told = readers - untold.len() as u64;
    let mut outcome =
        RollbackOutcome { readers, told, documents: committed.len() as u64, ..RollbackOutcome::default() };
    let held = crew.read_documents().await?;
    let shrunk = held.iter().zip(&committed).filter(|(now, earlier)| !now.continues(earlier));
    outcome.documents_lost = shrunk.count() as u64;
    let earlier: Vec<u64> = Source::ALL.iter().map(|source| crew.book(*source).borrow().issued()).collect();
    let going = Going::on();
    let work = crew.work(stack, rate, seed, &going);
    drive(work, async {
        sleep(AFTERWARDS).await;
        going.end();
        Ok(())
    })
    .await?;
    crew.catch_up_from(&earlier).await;
    for (source, earlier) in Source::ALL.into_iter().zip(earlier) {
        let book = crew.book(source).borrow();
        let new: BTreeSet<u64> = book.acknowledged_keys().range(earlier + 1..).copied().collect();
        outcome.acknowledged_afterwards += new.len() as u64;
        outcome.lost_afterwards += crew.readers(source).look(|readings| lost(&new, readings));
    }
    Ok(outcome)
}

/// Where a reader stands.
type Stand = (Source, &'static str, Option<Position>);

/// The readers whose epoch is still the same.
fn untold(before: &[Stand], crew: &Crew) -> Vec<String> {
    let epoch = |stand: &Stand| stand.2.as_ref().map(|position| position.epoch.clone());
    let now = crew.positions();
    let same = before.iter().zip(&now).filter(|(before, now)| epoch(before) == epoch(now));
    same.map(|((source, name, _), _)| format!("{name} of {}", source.name())).collect()
}
