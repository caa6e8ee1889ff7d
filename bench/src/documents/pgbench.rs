//! The reference of documents on PostgreSQL: pgbench with the statements of the platform's group commit.
//!
//! It runs in the platform's own database, after the platform has ended: on the same tables, indexes and
//! documents, with as many documents a transaction as the platform's transactions held, as many under way,
//! and texts as long. The server makes the texts, which spares pgbench sending them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sqlx::postgres::PgConnection;

use super::{Load, Spread};
use crate::child::{self, Process};
use crate::recvlogical::client_program;
use crate::rows::{connect, execute};

const SCRIPT: &str = include_str!("merge.sql");
/// The plans that the platform's statements get, whose arrays the planner sees: a look-up in the index for each
/// document. Of a number of documents that it does not know it would rather read the whole table.
const PLANS: &str = "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off";
/// Beyond its own time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What pgbench reached.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bare {
    /// Documents in each transaction.
    pub documents_per_transaction: u64,
    /// Transactions under way at a time.
    pub clients: u64,
    /// Documents a second.
    pub documents_per_second: f64,
}

/// Runs it with about `size` documents a transaction.
///
/// # Errors
/// `pgbench` is not installed, or a statement fails.
#[allow(clippy::cast_precision_loss)] // small counts
pub async fn measure(url: &str, spread: Spread, load: &Load, size: f64) -> Result<Bare> {
    let (documents_per_transaction, clients) = shape(size, load.connections as u64);
    let mut database = connect(url).await?;
    let mut variables = vec![
        ("size", documents_per_transaction.to_string()),
        ("documents", spread.documents.to_string()),
        ("services", spread.services.to_string()),
    ];
    variables.extend(places(&mut database, spread).await?);
    variables.extend(lengths(&mut database).await?);
    // As the server does by itself a minute after the documents came to be.
    execute(&mut database, "analyze".to_owned()).await?;
    drop(database);
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), SCRIPT)?;
    let mut command = child::command(client_program("pgbench"));
    command.env("PGOPTIONS", PLANS);
    command.args(["--no-vacuum", "--protocol", "prepared", "--jobs", "1"]);
    command.args(["--client", &clients.to_string(), "--time", &load.seconds.to_string()]);
    for (name, value) in variables {
        command.args(["--define", &format!("{name}={value}")]);
    }
    command.arg("--file").arg(script.path()).arg(url);
    let process = Process::start("pgbench", command, Duration::ZERO)?;
    let output = process.output(Duration::from_secs(load.seconds) + PATIENCE).await?;
    let transactions = per_second(&output).with_context(|| format!("pgbench said:\n{output}"))?;
    let documents_per_second = transactions * documents_per_transaction as f64;
    Ok(Bare { documents_per_transaction, clients, documents_per_second })
}

/// How many documents a transaction holds, and how many transactions are under way so that about as many
/// documents are as the platform had requests.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small counts
fn shape(size: f64, connections: u64) -> (u64, u64) {
    let size = (size.round() as u64).clamp(1, connections);
    (size, (connections / size).max(1))
}

/// The transactions a second that pgbench reports.
fn per_second(output: &str) -> Option<f64> {
    output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

/// Partition and row of each service's topic, as arrays by service.
async fn places(database: &mut PgConnection, spread: Spread) -> Result<[(&'static str, String); 2]> {
    let topics: Vec<String> =
        (0..spread.services).map(|service| format!("sync.{}.updated", spread.service(service))).collect();
    let found: Vec<(i64, i16)> = sqlx::query_as(
        "select t.id, t.partition from unnest($1::text[]) with ordinality as w(topic, place) \
         join event_log_topics t on t.topic = w.topic and t.is_current order by w.place",
    )
    .bind(&topics)
    .fetch_all(database)
    .await?;
    ensure!(
        found.len() == topics.len(),
        "the platform has written to {} of {} services",
        found.len(),
        topics.len()
    );
    let array = |values: Vec<String>| format!("{{{}}}", values.join(","));
    Ok([
        ("topics", array(found.iter().map(|(id, _)| id.to_string()).collect())),
        ("partitions", array(found.iter().map(|(_, partition)| partition.to_string()).collect())),
    ])
}

/// The lengths of what the platform has written.
async fn lengths(database: &mut PgConnection) -> Result<[(&'static str, String); 5]> {
    let (data,): (i32,) = sqlx::query_as("select avg(octet_length(data))::int from sync_documents")
        .fetch_one(&mut *database)
        .await?;
    let (diff, undo): (i32, i32) = sqlx::query_as(
        "select avg(octet_length(diff))::int, avg(octet_length(undo))::int from sync_document_revisions \
         where change = 'updated'",
    )
    .fetch_one(&mut *database)
    .await?;
    let (payload, metadata): (i32, i32) = sqlx::query_as(
        "select avg(octet_length(payload))::int, avg(octet_length(metadata))::int from event_log \
         where event_type = 'sync.updated'",
    )
    .fetch_one(&mut *database)
    .await?;
    let names = ["data_bytes", "diff_bytes", "undo_bytes", "payload_bytes", "metadata_bytes"];
    let lengths = [data, diff, undo, payload, metadata];
    Ok(std::array::from_fn(|index| (names[index], lengths[index].to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_documents_are_under_way() {
        assert_eq!(shape(31.6, 64), (32, 2));
        assert_eq!(shape(45.0, 64), (45, 1));
        assert_eq!(shape(1.2, 64), (1, 64));
        assert_eq!(shape(0.0, 64), (1, 64));
        assert_eq!(shape(900.0, 64), (64, 1));
    }

    #[test]
    fn the_rate_is_read_from_the_report() {
        let report = "number of transactions actually processed: 812\ntps = 162.401230 (without initial connection time)\n";
        assert_eq!(per_second(report), Some(162.401_23));
        assert_eq!(per_second("pgbench: error: x"), None);
    }
}
