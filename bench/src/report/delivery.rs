//! Tables of the gateways: fan-out and filters.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;

use super::{Case, Results, number, ratio};
use crate::accounting::median;
use crate::fanout::Fanout;
use crate::filter::Filtered;
use crate::link::Transport;
use crate::target::Target;

/// Fan-out, by server.
pub fn write_fanouts(text: &mut String, results: &Results) -> Result<()> {
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

/// Filters, by their number.
pub fn write_filters(text: &mut String, results: &Results) -> Result<()> {
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
