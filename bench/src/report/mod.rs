//! Tables: medians of the rounds, ratios, and the goals with what was measured.
//!
//! Pure: results in, Markdown out, put between two markers of a page whose other text is kept.

mod changes;
mod delivery;
mod goals;
mod services;

use std::fmt::Write;

use anyhow::{Context, Result};

use crate::accounting::median;
use crate::cdc::{CommitToClient, Throughput};
use crate::channels::Channel;
use crate::departure::Departure;
use crate::documents::Documents;
use crate::fanout::Fanout;
use crate::filter::Filtered;
use crate::link::Transport;
use crate::published::Published;
use crate::storm::Storm;
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
    /// Documents, all rounds of both modes.
    pub documents: Vec<Documents>,
    /// Channels, all rounds.
    pub channels: Vec<Channel>,
    /// Publishing through Redis, all rounds.
    pub published: Vec<Published>,
    /// Reconnect storms.
    pub storms: Vec<Storm>,
    /// Presence of killed backends' clients.
    pub departures: Vec<Departure>,
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
    goals::write_goals(&mut text, results)?;
    delivery::write_fanouts(&mut text, results)?;
    delivery::write_filters(&mut text, results)?;
    changes::write_cdc(&mut text, results)?;
    services::write_documents(&mut text, results)?;
    services::write_notices(&mut text, results)?;
    services::write_channels(&mut text, results)?;
    services::write_published(&mut text, results)?;
    services::write_trouble(&mut text, results)?;
    if !results.missing.is_empty() {
        writeln!(text, "\n### Not measured\n")?;
        for line in &results.missing {
            writeln!(text, "- {line}")?;
        }
    }
    Ok(text)
}

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
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
    fn results_replace_only_what_stands_between_the_markers() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n");
        let once = insert_into(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nrest\n"));
        assert_eq!(insert_into(&once, "new\n").unwrap(), once);
        assert!(insert_into("# Title", "new").is_err());
        assert!(insert_into(&empty_page(), "new").unwrap().contains("new"));
    }
}
