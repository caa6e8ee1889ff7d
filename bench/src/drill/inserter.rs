//! The rows: small transactions at a steady rate, and which of them the database acknowledged.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep_until, timeout};

use super::account::Ledger;
use crate::rows::{connect, execute};

/// The table.
pub const TABLE: &str = "drill_rows";
/// Rows of the transactions, in turn: 1 to 20, 6 on average.
const SIZES: [u64; 10] = [1, 3, 20, 1, 2, 10, 5, 1, 13, 4];
/// Each so many-th transaction is rolled back: its rows must not come.
const ROLLED_BACK_EVERY: u64 = 20;
/// How long one transaction may take.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(10);

/// Creates the table.
///
/// # Errors
/// The database refuses.
pub async fn create_table(url: &str) -> Result<()> {
    let columns = "id bigint primary key, note text not null, created_at timestamptz not null default now()";
    execute(&mut connect(url).await?, format!("create table {TABLE} ({columns})")).await
}

/// Inserts `rate` rows a second for `seconds`, and notes those whose commit was acknowledged.
///
/// # Errors
/// The database refuses or does not answer.
pub async fn insert(url: &str, rate: u32, seconds: u64, ledger: &Rc<RefCell<Ledger>>) -> Result<()> {
    let mut database = connect(url).await?;
    let mut due = Instant::now();
    let end = due + Duration::from_secs(seconds);
    let mut next = 1;
    for turn in 1_u64.. {
        sleep_until(due).await;
        if due >= end {
            break;
        }
        let size = SIZES[usize::try_from(turn)? % SIZES.len()];
        let keys = next..=next + size - 1;
        next += size;
        let commits = turn % ROLLED_BACK_EVERY != 0;
        timeout(TRANSACTION_LIMIT, transaction(&mut database, &keys, commits))
            .await
            .context("a transaction took too long")??;
        if commits {
            ledger.borrow_mut().committed(keys);
            due += Duration::from_secs(size) / rate.max(1);
        } else {
            ledger.borrow_mut().rolled_back(keys);
        }
    }
    Ok(())
}

/// Two statements where there is more than one row, so that a transaction is more than a statement.
async fn transaction(
    database: &mut PgConnection,
    keys: &std::ops::RangeInclusive<u64>,
    commits: bool,
) -> Result<()> {
    let (first, last) = (*keys.start(), *keys.end());
    let middle = first + (last - first) / 2;
    execute(database, "begin".to_owned()).await?;
    for (from, to) in [(first, middle), (middle + 1, last)] {
        if from <= to {
            let rows = format!("select g, 'row ' || g from generate_series({from}, {to}) g");
            execute(database, format!("insert into {TABLE} (id, note) {rows}")).await?;
        }
    }
    execute(database, if commits { "commit" } else { "rollback" }.to_owned()).await
}
