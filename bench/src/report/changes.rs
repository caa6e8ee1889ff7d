//! Tables of change data capture.

use std::fmt::Write;

use anyhow::Result;

use super::{Results, number};

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
/// Throughput, and the way of single commits.
pub fn write_cdc(text: &mut String, results: &Results) -> Result<()> {
    if let Some(cdc) = &results.throughput {
        writeln!(
            text,
            "\n### CDC: {} rows, one mapping\n\n| | rows/s | CPU µs a row |\n|---|--:|--:|",
            cdc.rows
        )?;
        writeln!(text, "| loader | {:.0} | |", cdc.loaded_rows_per_second)?;
        writeln!(
            text,
            "| platform, events appended | {:.0} | {:.2} + {:.2} of the database |",
            cdc.rows_per_second, cdc.cpu_us_per_row, cdc.beside_cpu_us_per_row
        )?;
        writeln!(text, "| platform, decoded and evaluated only | | {:.2} |", cdc.decode_cpu_us_per_row)?;
        writeln!(
            text,
            "| pg_recvlogical | {:.0} | {:.2} |",
            cdc.recvlogical.rows_per_second, cdc.recvlogical.cpu_us_per_row
        )?;
        writeln!(text, "\nLost: {}, duplicated: {}.", cdc.lost, cdc.duplicated)?;
    }
    if let Some(commit) = &results.commit_to_client {
        let millis = |micros: u64| number(micros as f64 / 1000.0);
        writeln!(text, "\n### Commit to client: {} single inserts\n", commit.inserts)?;
        writeln!(text, "| | p50 ms | p95 ms | p99 ms | max ms |\n|---|--:|--:|--:|--:|")?;
        for (part, found) in
            [("the event in the client", commit.latencies), ("the commit alone", commit.commits)]
        {
            let [p50, p95, p99, max] = [found.p50_us, found.p95_us, found.p99_us, found.max_us].map(millis);
            writeln!(text, "| {part} | {p50} | {p95} | {p99} | {max} |")?;
        }
    }
    Ok(())
}
