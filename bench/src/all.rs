//! Everything in one run: platform and peers in turn, several short rounds, one report.
//!
//! The rounds are interleaved (each server once, then all again), so that what disturbs the machine for a
//! while disturbs all alike. Each measurement has a fresh server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::time::timeout;

use crate::link::Transport;
use crate::report::{self, Results};
use crate::stage::{self, Mode};
use crate::target::Target;
use crate::{cdc, channels, departure, documents, fanout, filter, host, platform, published, storm};

/// Far more than any part needs; a server that hangs must not hang the run.
const PART_LIMIT: Duration = Duration::from_secs(900);

/// What belongs to the whole run.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The page whose results are replaced
    #[arg(long, default_value = "docs/benchmarks.md")]
    pub report: PathBuf,
    /// Rounds; the report has their medians
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Leave out what needs the platform where its program is not built
    #[arg(long)]
    pub peers_only: bool,
    #[command(flatten)]
    fanout: fanout::Load,
    #[command(flatten)]
    cdc: cdc::Load,
    /// Numbers of filtered subscriptions
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 100_000])]
    filters: Vec<usize>,
    #[command(flatten)]
    platform: platform::Options,
    #[command(flatten)]
    stage: stage::Options,
}

const PLAN: [(Target, Transport); 9] = [
    (Target::Platform, Transport::Ws),
    (Target::TokioBare, Transport::Ws),
    (Target::Bun, Transport::Ws),
    (Target::NodeWs, Transport::Ws),
    (Target::Platform, Transport::SocketIo),
    (Target::NodeSocketio, Transport::SocketIo),
    (Target::NodeSocketioRedis, Transport::SocketIo),
    (Target::Platform, Transport::Sse),
    (Target::TokioBare, Transport::Sse),
];

/// Measures everything and writes the report.
///
/// # Errors
/// The report cannot be written; or, after it was written, something could not be measured.
pub async fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let with_platform = !arguments.peers_only;
    if with_platform && !arguments.platform.is_available() {
        bail!(
            "the platform is not built: `cargo build --release -p realtime`, or give --platform-command, \
             or --peers-only"
        );
    }
    if with_platform && !arguments.stage.is_available() {
        bail!(
            "the backend is not built: `cargo build --release -p backend`, or give --backend, or --peers-only"
        );
    }
    let mut results = Results {
        machine: format!("Machine: {}.", host::description()),
        occasion: format!(
            "Measured on {}: {} rounds of {} s each, medians.",
            today(),
            arguments.rounds,
            arguments.fanout.seconds
        ),
        ..Results::default()
    };
    for round in 1..=arguments.rounds {
        fan_out(arguments, round, json, &mut results).await;
        if with_platform {
            filters(arguments, round, json, &mut results).await;
            services(arguments, round, json, &mut results).await;
        }
    }
    if with_platform {
        trouble(arguments, json, &mut results).await;
        changes(arguments, json, &mut results).await;
    } else {
        results.missing.push("The platform: this run measured only what it is compared with.".to_owned());
    }
    write_report(arguments, &results)?;
    if with_platform && !results.missing.is_empty() {
        bail!("the report is written, but not everything was measured:\n{}", results.missing.join("\n"));
    }
    Ok(())
}

async fn fan_out(arguments: &Arguments, round: u32, json: bool, results: &mut Results) {
    for (target, transport) in PLAN {
        if arguments.peers_only && target == Target::Platform {
            continue;
        }
        let name = format!("{}, {transport:?}, round {round}", target.title());
        let part = async {
            let server = target.start(&arguments.platform).await?;
            server.explain(fanout::measure(&server, transport, &arguments.fanout).await)
        };
        let found = bounded(&name, part, results).await.unwrap_or_default();
        found.iter().for_each(|line| print_json(json, "fanout", line));
        results.fanouts.extend(found);
    }
}

async fn filters(arguments: &Arguments, round: u32, json: bool, results: &mut Results) {
    let load = filter::Load {
        subscriptions: arguments.filters.clone(),
        connections: 100,
        payload: arguments.fanout.payload,
        inflight: 16,
        seconds: arguments.fanout.seconds,
    };
    let part = async {
        let server = Target::Platform.start(&arguments.platform).await?;
        server.explain(filter::measure(&server, &load).await)
    };
    let found = bounded(&format!("filters, round {round}"), part, results).await.unwrap_or_default();
    found.iter().for_each(|line| print_json(json, "filter", line));
    results.filtered.extend(found);
}

/// Documents, channels and publishing: each beside its reference.
async fn services(arguments: &Arguments, round: u32, json: bool, results: &mut Results) {
    let (stage, seconds) = (&arguments.stage, arguments.fanout.seconds);
    let load = documents::Load { seconds, ..defaults() };
    for mode in [Mode::Redis, Mode::Postgres] {
        let name = format!("documents on {}, round {round}", mode.title());
        let found = bounded(&name, documents::measure(stage, mode, &load), results).await;
        found.iter().for_each(|line| print_json(json, "documents", line));
        results.documents.extend(found);
    }
    let load = channels::Load { seconds, ..defaults() };
    let part = channels::measure(stage, &load);
    let found = bounded(&format!("channels, round {round}"), part, results).await.unwrap_or_default();
    found.iter().for_each(|line| print_json(json, "channels", line));
    results.channels.extend(found);
    let load = published::Load { seconds, ..defaults() };
    let part = published::measure(stage, &load);
    let found = bounded(&format!("publishing, round {round}"), part, results).await.unwrap_or_default();
    found.iter().for_each(|line| print_json(json, "publish", line));
    results.published.extend(found);
}

/// What happens when a backend is killed.
async fn trouble(arguments: &Arguments, json: bool, results: &mut Results) {
    for mode in [Mode::Redis, Mode::Postgres] {
        let load = defaults();
        let part = storm::measure(&arguments.stage, mode, &load);
        let found = bounded(&format!("reconnect storm on {}", mode.title()), part, results).await;
        found.iter().for_each(|line| print_json(json, "storm", line));
        results.storms.extend(found);
        let load = defaults();
        let part = departure::measure(&arguments.stage, mode, &load);
        let found = bounded(&format!("presence on {}", mode.title()), part, results).await;
        found.iter().for_each(|line| print_json(json, "presence", line));
        results.departures.extend(found);
    }
}

/// A load as its own command has it when nothing is said.
fn defaults<L: clap::Args>() -> L {
    let matches = L::augment_args(clap::Command::new("defaults")).get_matches_from(["defaults"]);
    L::from_arg_matches(&matches).expect("every argument of a load has a default")
}

async fn changes(arguments: &Arguments, json: bool, results: &mut Results) {
    let platform = platform::Options { all_cores: true, ..arguments.platform.clone() };
    let latency = async {
        let server = Target::Platform.start(&platform).await?;
        server.explain(cdc::commit_to_client(&server, &arguments.cdc).await)
    };
    results.commit_to_client = bounded("commit to client", latency, results).await;
    let throughput = async {
        let server = Target::Platform.start(&platform).await?;
        server.explain(cdc::throughput(&server, &arguments.cdc).await)
    };
    results.throughput = bounded("CDC throughput", throughput, results).await;
    results.commit_to_client.iter().for_each(|line| print_json(json, "latency", line));
    results.throughput.iter().for_each(|line| print_json(json, "cdc", line));
}

/// Runs one part; what fails or hangs is noted, and the run goes on.
async fn bounded<T>(name: &str, part: impl Future<Output = Result<T>>, results: &mut Results) -> Option<T> {
    eprintln!("measuring: {name}");
    let outcome = timeout(PART_LIMIT, part).await;
    match outcome.with_context(|| format!("not done after {} s", PART_LIMIT.as_secs())).flatten() {
        Ok(found) => Some(found),
        Err(error) => {
            eprintln!("failed: {name}: {error:#}");
            results.missing.push(format!("{name}: {error:#}").lines().next().unwrap_or_default().to_owned());
            None
        }
    }
}

/// One measurement as one line of JSON, with its kind.
pub fn print_json(wanted: bool, kind: &str, measured: &impl Serialize) {
    if wanted {
        println!("{}", serde_json::json!({ "measure": kind, "result": measured }));
    }
}

fn write_report(arguments: &Arguments, results: &Results) -> Result<()> {
    let path = &arguments.report;
    let page = if path.exists() { std::fs::read_to_string(path)? } else { report::empty_page() };
    let page = report::insert_into(&page, &report::markdown(results)?)?;
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("written: {}", path.display());
    Ok(())
}

/// The date, as the system's `date` prints it; no calendar is needed for one line.
fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or("an unknown day".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_loads_have_defaults() {
        assert_eq!(defaults::<documents::Load>().connections, 64);
        assert_eq!(defaults::<channels::Load>().members, 1000);
        assert_eq!(defaults::<published::Load>().topics, [1, 100]);
        assert_eq!(defaults::<storm::Load>().clients, 5000);
        assert_eq!(defaults::<departure::Load>().present, 100);
    }
}
