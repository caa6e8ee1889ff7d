//! Rows: small transactions that insert, update and write into the outbox, and which of them were committed.
//!
//! One writer, so that the order of keys is the order of commits. Whether a transaction took effect whose commit was
//! not answered is read in the table, once the server is back.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use tokio::time::{Instant, sleep, timeout};

use super::{Book, Going, Pace};
use crate::drill::chaos::Chance;
use crate::drill::source::Source;
use crate::rows::{connect, execute};

/// The table.
pub const TABLE: &str = "drill_rows";
/// Row changes of the transactions, in turn: 1 to 20, 6 on average.
const SIZES: [u64; 10] = [1, 3, 20, 1, 2, 10, 5, 1, 13, 4];
/// Each so many-th transaction is rolled back: its rows must not come.
const ROLLED_BACK_EVERY: u64 = 20;
/// How long one transaction may take: a server that is killed breaks the connection, which is noticed at once.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(120);
/// How long the server may stay away.
const AWAY_LIMIT: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(100);
/// The outbox's statements, as `realtime outbox install` runs them.
const OUTBOX: &str = include_str!("../../../../crates/outbox/src/install.sql");

/// Creates the table and the outbox.
///
/// # Errors
/// The database refuses.
pub async fn install(url: &str) -> Result<()> {
    let mut database = connect(url).await?;
    let columns = "id bigserial primary key, key bigint not null, note text not null";
    execute(&mut database, format!("create table {TABLE} ({columns})")).await?;
    execute(&mut database, OUTBOX.to_owned()).await
}

/// One transaction.
struct Draft {
    /// Keys of its row changes.
    keys: RangeInclusive<u64>,
    /// The key of its row in the outbox.
    outbox: u64,
    /// The last so many of its row changes are updates, of rows that chance names.
    updates: Vec<u64>,
    commits: bool,
}

impl Draft {
    fn statements(&self) -> Vec<String> {
        let (first, last) = (*self.keys.start(), *self.keys.end());
        let inserted = last - self.updates.len() as u64;
        let mut statements = Vec::new();
        if first <= inserted {
            let rows = format!("select g, 'row ' || g from generate_series({first}, {inserted}) g");
            statements.push(format!("insert into {TABLE} (key, note) {rows}"));
        }
        for (key, row) in (inserted + 1..=last).zip(&self.updates) {
            // The row that chance names may be of a transaction that was rolled back: then the one before it.
            let named = format!("select max(id) from {TABLE} where id <= {row}");
            statements.push(format!("update {TABLE} set key = {key} where id = ({named})"));
        }
        let topic = Source::Outbox.topic();
        let values = format!("'{topic}', '{topic}', '{{\"key\": {}}}'", self.outbox);
        statements.push(format!("insert into event_outbox (topic, event_type, payload) values ({values})"));
        statements
    }

    async fn run(&self, database: &mut PgConnection) -> Result<()> {
        execute(database, "begin".to_owned()).await?;
        for statement in self.statements() {
            execute(database, statement).await?;
        }
        execute(database, if self.commits { "commit" } else { "rollback" }.to_owned()).await
    }

    fn note(&self, took_effect: bool, rows: &Book, outbox: &Book) {
        let (mut rows, mut outbox) = (rows.borrow_mut(), outbox.borrow_mut());
        if took_effect {
            self.keys.clone().for_each(|key| rows.acknowledged(key));
            outbox.acknowledged(self.outbox);
        } else {
            self.keys.clone().for_each(|key| rows.refused(key));
            outbox.refused(self.outbox);
        }
    }
}

/// Changes `rate` rows a second until told to end, and notes what was committed.
///
/// # Errors
/// The database refuses, or stays away.
pub async fn write(url: String, rate: f64, seed: u64, rows: Book, outbox: Book, going: Going) -> Result<()> {
    let mut database = connect(&url).await?;
    let mut pace = Pace::new(rate);
    let mut chance = Chance::new(seed);
    for turn in 1_u64.. {
        let size = SIZES[usize::try_from(turn)? % SIZES.len()];
        pace.next(size).await;
        if !going.is_on() {
            break;
        }
        let draft = draft(turn, size, &mut chance, &rows, &outbox);
        let done = timeout(TRANSACTION_LIMIT, draft.run(&mut database)).await;
        let took_effect = match done.context("a transaction took too long")? {
            Ok(()) => draft.commits,
            Err(error) => {
                rows.borrow_mut().complain("a transaction's connection broke, or it was refused".to_owned());
                let (again, there) = look_again(&url, *draft.keys.end()).await.context(error)?;
                database = again;
                there
            }
        };
        ensure!(draft.commits || !took_effect, "a transaction was rolled back and is there");
        draft.note(took_effect, &rows, &outbox);
    }
    Ok(())
}

fn draft(turn: u64, size: u64, chance: &mut Chance, rows: &Book, outbox: &Book) -> Draft {
    let mut book = rows.borrow_mut();
    let first = book.issue();
    let last = (1..size).map(|_| book.issue()).last().unwrap_or(first);
    // The first transactions only insert: there must be something to update.
    let updates = if turn > 10 { size / 3 } else { 0 };
    let updates = (0..updates).map(|_| 1 + chance.below(first)).collect();
    let commits = !turn.is_multiple_of(ROLLED_BACK_EVERY);
    Draft { keys: first..=last, outbox: outbox.borrow_mut().issue(), updates, commits }
}

/// Connects as soon as the server is back, and asks whether the row change is there. The server was killed: nothing of
/// before is still under way. It may be killed again before it has answered.
async fn look_again(url: &str, key: u64) -> Result<(PgConnection, bool)> {
    let deadline = Instant::now() + AWAY_LIMIT;
    loop {
        match look(url, key).await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn look(url: &str, key: u64) -> Result<(PgConnection, bool)> {
    let mut database = connect(url).await?;
    let sql = AssertSqlSafe(format!("select exists (select from {TABLE} where key = {key}) as found"));
    let found = sqlx::query(sql).fetch_one(&mut database).await?.get("found");
    Ok((database, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_s_changes_are_in_the_order_of_their_keys() {
        let draft = Draft { keys: 11..=14, outbox: 3, updates: vec![5, 2], commits: true };
        let statements = draft.statements();
        assert_eq!(statements.len(), 4);
        assert!(statements[0].contains("generate_series(11, 12)"), "{}", statements[0]);
        assert!(statements[1].starts_with("update drill_rows set key = 13"), "{}", statements[1]);
        assert!(
            statements[2].contains("set key = 14") && statements[2].contains("<= 2"),
            "{}",
            statements[2]
        );
        assert!(statements[3].contains("'drill.outbox', '{\"key\": 3}'"), "{}", statements[3]);
    }

    #[test]
    fn what_is_drafted_has_keys_of_its_own() {
        let (rows, outbox) = (Book::default(), Book::default());
        let mut chance = Chance::new(1);
        let first = draft(1, 3, &mut chance, &rows, &outbox);
        let second = draft(20, 20, &mut chance, &rows, &outbox);
        assert_eq!((first.keys, first.outbox, first.updates.len()), (1..=3, 1, 0));
        assert_eq!((second.keys.clone(), second.outbox, second.updates.len()), (4..=23, 2, 6));
        assert!(!second.commits);
        second.note(false, &rows, &outbox);
        assert!(rows.borrow().refused_keys().contains(&23) && outbox.borrow().refused_keys().contains(&2));
    }
}
