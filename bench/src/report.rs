//! Tables: medians of the rounds, ratios, and the goals with what was measured.
//!
//! Pure: results in, Markdown out, put between two markers of a page whose other text is kept.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::accounting::median;
use crate::cdc::{CommitToClient, Throughput};
use crate::fanout::Fanout;
use crate::filter::Filtered;
use crate::link::Transport;
use crate::target::Target;

const BEGIN: &str = "<!-- results: begin (written by `bench all`) -->";
const END: &str = "<!-- results: end -->";

/// Everything that one run measured.
#[derive(Debug, Default)]
pub struct Results {
    /// Fan-out, all rounds.
    pub fanouts: Vec<Fanout>,
    /// Filters, all rounds.
    pub filtered: Vec<Filtered>,
    /// CDC throughput, where there was a platform.
    pub throughput: Option<Throughput>,
    /// Commit to client, where there was a platform.
    pub commit_to_client: Option<CommitToClient>,
    /// The machine.
    pub machine: String,
    /// When, and how many rounds.
    pub occasion: String,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// One server, transport and number under way.
type Case = (Target, Transport, u64);

impl Results {
    fn of(&self, case: Case, value: impl Fn(&Fanout) -> f64) -> Option<f64> {
        let (target, transport, inflight) = case;
        let same = |fanout: &&Fanout| {
            fanout.target == target && fanout.transport == transport && fanout.inflight == inflight
        };
        median(self.fanouts.iter().filter(same).map(value))
    }

    fn cpu(&self, case: Case) -> Option<f64> {
        self.of(case, |fanout| fanout.cpu_us_per_delivery)
    }

    fn cpu_ratio(&self, case: Case, beside: Case) -> Option<f64> {
        ratio(self.cpu(case), self.cpu(beside))
    }

    fn filter_cost(&self, subscriptions: usize) -> Option<f64> {
        let same = self.filtered.iter().filter(|filtered| filtered.subscriptions == subscriptions);
        median(same.map(|filtered| filtered.cpu_us_per_event))
    }
}

fn ratio(value: Option<f64>, beside: Option<f64>) -> Option<f64> {
    Some(value? / beside.filter(|beside| *beside > 0.0)?)
}

/// Which side of its limit a goal lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

struct Goal {
    measure: &'static str,
    bound: Bound,
    limit: f64,
    unit: &'static str,
    measured: Option<f64>,
}

impl Goal {
    const fn at_most(measure: &'static str, limit: f64, unit: &'static str, measured: Option<f64>) -> Self {
        Self { measure, bound: Bound::AtMost, limit, unit, measured }
    }

    fn verdict(&self) -> String {
        let Some(measured) = self.measured else { return "not measured".to_owned() };
        let (met, by) = match self.bound {
            Bound::AtMost => (measured <= self.limit, measured / self.limit),
            Bound::AtLeast => (measured >= self.limit, self.limit / measured),
        };
        if met { "met".to_owned() } else { format!("**missed** by {:.0} %", (by - 1.0) * 100.0) }
    }
}

fn goals(results: &Results) -> Vec<Goal> {
    use Target::{Bun, NodeSocketio, NodeSocketioRedis, NodeWs, Platform, TokioBare};
    use Transport::{SocketIo, Ws};
    let idle = |transport| results.of((Platform, transport, 1), |fanout| fanout.idle_kib_per_connection);
    let beside = |transport, inflight, other| results.cpu_ratio((Platform, transport, inflight), other);
    let commit = results.commit_to_client.as_ref().map(|commit| commit.latencies);
    let throughput = results.throughput.as_ref();
    #[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
    let millis = |micros: u64| micros as f64 / 1000.0;
    let decode = throughput
        .and_then(|cdc| ratio(Some(cdc.decode_cpu_us_per_row), Some(cdc.recvlogical.cpu_us_per_row)));
    let filter = ratio(results.filter_cost(100_000), results.filter_cost(10));
    vec![
        Goal::at_most(
            "plain WebSocket, one at a time, CPU a delivery",
            1.25,
            "× bare tokio",
            beside(Ws, 1, (TokioBare, Ws, 1)),
        ),
        Goal::at_most("the same", 0.75, "× Node ws", beside(Ws, 1, (NodeWs, Ws, 1))),
        Goal::at_most(
            "plain WebSocket, 16 under way, CPU a delivery",
            1.5,
            "× Bun",
            beside(Ws, 16, (Bun, Ws, 16)),
        ),
        Goal::at_most(
            "Socket.IO, one at a time, CPU a delivery",
            0.45,
            "× Node socket.io, Redis adapter",
            beside(SocketIo, 1, (NodeSocketioRedis, SocketIo, 1)),
        ),
        Goal::at_most("the same", 1.4, "× bare tokio", beside(SocketIo, 1, (TokioBare, Ws, 1))),
        Goal::at_most(
            "Socket.IO, 16 under way, CPU a delivery",
            0.25,
            "× Node socket.io",
            beside(SocketIo, 16, (NodeSocketio, SocketIo, 16)),
        ),
        Goal::at_most("memory of an idle connection, plain WebSocket", 10.0, "KiB", idle(Ws)),
        Goal::at_most("memory of an idle connection, Socket.IO", 40.0, "KiB", idle(SocketIo)),
        Goal::at_most("an event against 100,000 filtered subscriptions", 3.0, "× against 10", filter),
        Goal::at_most("commit to client, median", 10.0, "ms", commit.map(|found| millis(found.p50_us))),
        Goal::at_most(
            "commit to client, 99th percentile",
            50.0,
            "ms",
            commit.map(|found| millis(found.p99_us)),
        ),
        Goal {
            measure: "CDC, events appended",
            bound: Bound::AtLeast,
            limit: 30_000.0,
            unit: "rows/s",
            measured: throughput.map(|cdc| cdc.rows_per_second),
        },
        Goal::at_most("CDC, CPU a row of decode and evaluate", 2.0, "× pg_recvlogical", decode),
    ]
}

/// The results as Markdown.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn markdown(results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}\n\n{}\n", results.occasion, results.machine)?;
    if results.fanouts.iter().any(|fanout| !fanout.pinned) {
        writeln!(text, "The server had no core of its own: with one core, or where the kernel refuses.\n")?;
    }
    write_goals(&mut text, results)?;
    write_fanouts(&mut text, results)?;
    write_filters(&mut text, results)?;
    write_cdc(&mut text, results)?;
    if !results.missing.is_empty() {
        writeln!(text, "\n### Not measured\n")?;
        for line in &results.missing {
            writeln!(text, "- {line}")?;
        }
    }
    Ok(text)
}

fn write_goals(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "### Goals\n\n| measure | goal | measured | |\n|---|---|---|---|")?;
    for goal in goals(results) {
        let sign = if goal.bound == Bound::AtMost { "≤" } else { "≥" };
        let measured = goal.measured.map_or("–".to_owned(), number);
        let (limit, verdict) = (number(goal.limit), goal.verdict());
        writeln!(text, "| {} | {sign} {limit} {} | {measured} | {verdict} |", goal.measure, goal.unit)?;
    }
    Ok(())
}

fn write_fanouts(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.fanouts.first() else { return Ok(()) };
    writeln!(text, "\n### Fan-out: {} subscribers, {} bytes of payload\n", first.subscribers, first.payload)?;
    writeln!(
        text,
        "CPU is the server process's a delivery, beside it (after `+`) that of its Redis or database; latency is from \
         publishing to receipt, of all deliveries.\n"
    )?;
    writeln!(
        text,
        "| transport | under way | server | CPU µs | × bare tokio | deliveries/s | p50 ms | p95 ms | p99 ms | max ms | idle KiB | lost | duplicated |"
    )?;
    writeln!(text, "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    let mut cases: BTreeMap<(u8, u64, Target), Transport> = BTreeMap::new();
    for fanout in &results.fanouts {
        cases.insert((fanout.transport as u8, fanout.inflight, fanout.target), fanout.transport);
    }
    for ((_, inflight, target), transport) in cases {
        writeln!(text, "{}", fanout_row(results, (target, transport, inflight)))?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute, counts far below 2^52
fn fanout_row(results: &Results, case: Case) -> String {
    let (target, transport, inflight) = case;
    let of = |value: &dyn Fn(&Fanout) -> f64| results.of(case, value).unwrap_or_default();
    let millis = |value: &dyn Fn(&Fanout) -> u64| number(of(&|fanout| value(fanout) as f64 / 1000.0));
    let total = |value: &dyn Fn(&Fanout) -> u64| -> u64 {
        let same = |fanout: &&Fanout| (fanout.target, fanout.transport, fanout.inflight) == case;
        results.fanouts.iter().filter(same).map(value).sum()
    };
    let beside = of(&|fanout| fanout.beside_cpu_us_per_delivery);
    let beside = if beside > 0.0 { format!(" + {beside:.2}") } else { String::new() };
    // Socket.IO has no bare server of its own: the plain one is the floor for both.
    let floor = if transport == Transport::Sse { Transport::Sse } else { Transport::Ws };
    let times = results.cpu_ratio(case, (Target::TokioBare, floor, inflight)).map_or("–".to_owned(), number);
    format!(
        "| {} | {inflight} | {} | {:.2}{beside} | {times} | {:.0} | {} | {} | {} | {} | {:.1} | {} | {} |",
        transport_name(transport),
        target.title(),
        of(&|fanout| fanout.cpu_us_per_delivery),
        of(&|fanout| fanout.deliveries_per_second),
        millis(&|fanout| fanout.latencies.p50_us),
        millis(&|fanout| fanout.latencies.p95_us),
        millis(&|fanout| fanout.latencies.p99_us),
        millis(&|fanout| fanout.latencies.max_us),
        of(&|fanout| fanout.idle_kib_per_connection),
        total(&|fanout| fanout.losses.lost),
        total(&|fanout| fanout.losses.duplicated),
    )
}

const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Ws => "WebSocket",
        Transport::SocketIo => "Socket.IO",
        Transport::Sse => "SSE",
    }
}

fn write_filters(text: &mut String, results: &Results) -> Result<()> {
    if results.filtered.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n### Filters: one of N subscriptions `{{ userId }}` matches\n")?;
    writeln!(
        text,
        "| subscriptions | CPU µs an event | × fewest | events/s | p50 ms | p99 ms | lost | duplicated |"
    )?;
    writeln!(text, "|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    let mut cases: BTreeMap<usize, Vec<&Filtered>> = BTreeMap::new();
    for filtered in &results.filtered {
        cases.entry(filtered.subscriptions).or_default().push(filtered);
    }
    let fewest = cases.keys().next().and_then(|count| results.filter_cost(*count));
    for (count, rounds) in &cases {
        writeln!(text, "{}", filter_row(*count, rounds, fewest))?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
fn filter_row(count: usize, rounds: &[&Filtered], fewest: Option<f64>) -> String {
    let of = |value: &dyn Fn(&Filtered) -> f64| {
        median(rounds.iter().map(|round| value(round))).unwrap_or_default()
    };
    let cost = of(&|round| round.cpu_us_per_event);
    format!(
        "| {count} | {cost:.1} | {} | {:.0} | {} | {} | {} | {} |",
        ratio(Some(cost), fewest).map_or("–".to_owned(), number),
        of(&|round| round.events_per_second),
        number(of(&|round| round.latencies.p50_us as f64 / 1000.0)),
        number(of(&|round| round.latencies.p99_us as f64 / 1000.0)),
        rounds.iter().map(|round| round.losses.lost).sum::<u64>(),
        rounds.iter().map(|round| round.losses.duplicated).sum::<u64>(),
    )
}

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
fn write_cdc(text: &mut String, results: &Results) -> Result<()> {
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

fn number(value: f64) -> String {
    match value {
        large if large >= 100.0 => format!("{large:.0}"),
        medium if medium >= 10.0 => format!("{medium:.1}"),
        small => format!("{small:.2}"),
    }
}

/// Puts the results between the page's markers.
///
/// # Errors
/// The page lacks one of the markers.
pub fn insert_into(page: &str, results: &str) -> Result<String> {
    let missing = || format!("the page has no lines {BEGIN:?} and {END:?}");
    let (before, rest) = page.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", results.trim()))
}

/// A page of nothing but the markers, for a report elsewhere.
pub fn empty_page() -> String {
    format!("# Benchmarks\n\n{BEGIN}\n{END}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::{Latencies, Losses};

    fn fanout(target: Target, transport: Transport, inflight: u64, cpu: f64) -> Fanout {
        Fanout {
            target,
            transport,
            subscribers: 1000,
            payload: 128,
            inflight,
            pinned: true,
            seconds: 1.0,
            deliveries: 1000,
            deliveries_per_second: 1000.0,
            cpu_us_per_delivery: cpu,
            beside_cpu_us_per_delivery: 0.0,
            idle_kib_per_connection: 11.0,
            latencies: Latencies::default(),
            losses: Losses { lost: 1, duplicated: 0, reordered: 0 },
        }
    }

    #[test]
    fn goals_compare_medians_and_say_by_how_much_they_are_missed() {
        let mut results = Results::default();
        for cpu in [9.0, 3.0, 3.2] {
            results.fanouts.push(fanout(Target::Platform, Transport::Ws, 1, cpu));
        }
        results.fanouts.push(fanout(Target::TokioBare, Transport::Ws, 1, 2.0));
        results.fanouts.push(fanout(Target::NodeWs, Transport::Ws, 1, 8.0));
        let text = markdown(&results).unwrap();
        assert!(text.contains("| ≤ 1.25 × bare tokio | 1.60 | **missed** by 28 % |"), "{text}");
        assert!(text.contains("| the same | ≤ 0.75 × Node ws | 0.40 | met |"), "{text}");
        assert!(
            text.contains(
                "| plain WebSocket, 16 under way, CPU a delivery | ≤ 1.50 × Bun | – | not measured |"
            )
        );
        assert!(text.contains("| WebSocket | 1 | platform | 3.20 | 1.60 | 1000 |"), "{text}");
        assert!(text.contains("| 11.0 | 3 | 0 |"), "losses are summed over the rounds: {text}");
    }

    #[test]
    fn at_least_goals_are_missed_from_below() {
        let goal = |measured| Goal { measure: "", bound: Bound::AtLeast, limit: 30.0, unit: "", measured };
        assert_eq!(goal(Some(30.0)).verdict(), "met");
        assert_eq!(goal(Some(20.0)).verdict(), "**missed** by 50 %");
        assert_eq!(goal(None).verdict(), "not measured");
    }

    #[test]
    fn results_replace_only_what_stands_between_the_markers() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n");
        let once = insert_into(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nrest\n"));
        assert_eq!(insert_into(&once, "new\n").unwrap(), once);
        assert!(insert_into("# Title", "new").is_err());
        assert!(insert_into(&empty_page(), "new").unwrap().contains("new"));
    }
}
