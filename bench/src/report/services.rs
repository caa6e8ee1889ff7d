//! Tables of documents, channels, publishing through Redis, and of what happens when a backend is killed;
//! and the numbers of them that goals are about.
//!
//! Ratios are of one round each, in which both sides were measured after one another; the median of the
//! rounds' ratios is shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;

use super::{Results, millis, number, ratio};
use crate::accounting::{Latencies, median};
use crate::channels::Channel;
use crate::departure::Departure;
use crate::documents::{Compared, Notice, Spread};
use crate::published::Published;
use crate::stage::Mode;
use crate::storm::Storm;

impl Results {
    /// The median over the rounds of what is asked of a mode's merges.
    pub(super) fn merges(&self, mode: Mode, value: impl Fn(&Compared) -> Option<f64>) -> Option<f64> {
        median(self.compared().filter(|compared| compared.mode == mode).filter_map(value))
    }

    fn compared(&self) -> impl Iterator<Item = &Compared> {
        self.documents.iter().flat_map(|documents| &documents.merges)
    }

    /// The median over the rounds of what is asked of a mode's single writes.
    pub(super) fn notice(&self, mode: Mode, value: impl Fn(&Notice) -> f64) -> Option<f64> {
        let notices = self.documents.iter().map(|documents| &documents.notice);
        median(notices.filter(|notice| notice.mode == mode).map(value))
    }

    /// What a delivery costs over two instances beside one.
    pub(super) fn second_instance(&self, inflight: u64) -> Option<f64> {
        let of = |instances| {
            self.channels.iter().filter(move |c| c.instances == instances && c.inflight == inflight)
        };
        let pairs = of(2).zip(of(1));
        median(
            pairs
                .filter_map(|(two, one)| ratio(Some(two.cpu_us_per_delivery), Some(one.cpu_us_per_delivery))),
        )
    }

    /// What an event costs Redis beside the bare script.
    pub(super) fn redis_cost(&self, topics: usize) -> Option<f64> {
        let same = self.published.iter().filter(|published| published.topics == topics);
        median(same.filter_map(redis_ratio))
    }

    /// How long the clients of a killed backend were shown.
    pub(super) fn departed(&self, mode: Mode) -> Option<f64> {
        let same = self.departures.iter().filter(|departure| departure.mode == mode);
        same.map(|departure| departure.gone_seconds.max(departure.announced_seconds)).reduce(f64::max)
    }

    /// The worst of what is asked of a mode's storms.
    pub(super) fn storm(&self, mode: Mode, value: impl Fn(&Storm) -> f64) -> Option<f64> {
        self.storms.iter().filter(|storm| storm.mode == mode).map(value).reduce(f64::max)
    }
}

fn redis_ratio(published: &Published) -> Option<f64> {
    ratio(Some(published.redis_cpu_us_per_event), Some(published.bare.redis_cpu_us_per_event))
}

fn percentiles(rounds: &[&Latencies]) -> String {
    let of = |value: fn(&Latencies) -> u64| {
        number(median(rounds.iter().map(|round| millis(value(round)))).unwrap_or_default())
    };
    [of(|l| l.p50_us), of(|l| l.p95_us), of(|l| l.p99_us), of(|l| l.max_us)].join(" | ")
}

/// The rounds of each case, in the cases' order.
fn by_case<'a, T, K: Ord>(
    rounds: impl Iterator<Item = &'a T>,
    case: impl Fn(&T) -> K,
) -> BTreeMap<K, Vec<&'a T>> {
    let mut cases: BTreeMap<K, Vec<&T>> = BTreeMap::new();
    for round in rounds {
        cases.entry(case(round)).or_default().push(round);
    }
    cases
}

fn middle<T>(rounds: &[&T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    median(rounds.iter().filter_map(|round| value(round)))
}

/// Merges, by mode and number of documents.
pub fn write_documents(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.compared().next() else { return Ok(()) };
    writeln!(text, "\n### Documents: merges over {} connections\n", first.platform.connections)?;
    writeln!(text, "CPU is the server's a request, beside it (after `+`) that of Redis and PostgreSQL.\n")?;
    writeln!(text, "| | documents | requests/s | share | CPU µs | p50 ms | p95 ms | p99 ms | max ms |")?;
    writeln!(text, "|---|---|--:|--:|--:|--:|--:|--:|--:|")?;
    // The most documents first, as the goals are.
    let cases = by_case(results.compared(), |c| (c.mode, std::cmp::Reverse(c.platform.spread)));
    for ((mode, std::cmp::Reverse(spread)), rounds) in cases {
        write_case(text, mode, spread, &rounds)?;
    }
    Ok(())
}

fn write_case(text: &mut String, mode: Mode, spread: Spread, rounds: &[&Compared]) -> Result<()> {
    let documents = match spread.services {
        1 => format!("{} of one service", spread.documents),
        services => format!("{} of {services} services", spread.documents),
    };
    let row =
        |text: &mut String, name: &str, rate: Option<f64>, share: Option<f64>, cpu: &str, times: &str| {
            let rate = rate.map_or("–".to_owned(), |rate| format!("{rate:.0}"));
            let share = share.map_or(String::new(), number);
            writeln!(text, "| {name} | {documents} | {rate} | {share} | {cpu} | {times} |")
        };
    let share = |c: &Compared| ratio(Some(c.platform.answered.per_second), c.reference_per_second());
    let cpu = |of: &dyn Fn(&Compared) -> Option<(f64, f64)>| {
        let own = middle(rounds, |c| Some(of(c)?.0)).unwrap_or_default();
        format!("{own:.1} + {:.1}", middle(rounds, |c| Some(of(c)?.1)).unwrap_or_default())
    };
    let rate = middle(rounds, |c| Some(c.platform.answered.per_second));
    let used = cpu(&|c| Some((c.platform.cpu_us_per_request, c.platform.beside_cpu_us_per_request)));
    let times: Vec<&Latencies> = rounds.iter().map(|c| &c.platform.answered.latencies).collect();
    let name = format!("platform, {}", mode.title());
    row(text, &name, rate, middle(rounds, share), &used, &percentiles(&times))?;
    let times: Vec<&Latencies> = rounds.iter().map(|c| &c.half.latencies).collect();
    let rate = middle(rounds, |c| Some(c.half.per_second));
    row(text, &format!("{name}, at half of that rate"), rate, None, "", &percentiles(&times))?;
    if rounds.iter().any(|c| c.bare.is_some()) {
        let rate = middle(rounds, |c| Some(c.bare.as_ref()?.answered.per_second));
        let used = cpu(&|c| c.bare.as_ref().map(|b| (b.cpu_us_per_request, b.beside_cpu_us_per_request)));
        let times: Vec<&Latencies> =
            rounds.iter().filter_map(|c| Some(&c.bare.as_ref()?.answered.latencies)).collect();
        row(text, "a server that only runs the script", rate, Some(1.0), &used, &percentiles(&times))?;
    }
    if let Some(shape) = rounds.iter().find_map(|c| c.pgbench) {
        let rate = middle(rounds, |c| Some(c.pgbench?.documents_per_second));
        let name = format!(
            "pgbench, {} transactions of {} documents",
            shape.clients, shape.documents_per_transaction
        );
        row(text, &name, rate, Some(1.0), "", " | | | ")?;
    }
    Ok(())
}

/// The way of single writes.
pub fn write_notices(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.documents.first() else { return Ok(()) };
    writeln!(text, "\n### Document write to client: {} single merges\n", first.notice.writes)?;
    writeln!(text, "| | p50 ms | p95 ms | p99 ms | max ms |\n|---|--:|--:|--:|--:|")?;
    let notices = results.documents.iter().map(|documents| &documents.notice);
    for (mode, rounds) in by_case(notices, |notice| notice.mode) {
        let of = |value: fn(&Notice) -> &Latencies| {
            percentiles(&rounds.iter().map(|round| value(round)).collect::<Vec<_>>())
        };
        writeln!(text, "| {}, the event in the client | {} |", mode.title(), of(|notice| &notice.latencies))?;
        writeln!(text, "| {}, the answer | {} |", mode.title(), of(|notice| &notice.answers))?;
    }
    Ok(())
}

/// Channels, by messages under way and instances.
pub fn write_channels(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.channels.first() else { return Ok(()) };
    writeln!(text, "\n### Channel: {} members\n", first.members)?;
    writeln!(
        text,
        "| under way | instances | CPU µs | × one | deliveries/s | p50 ms | p95 ms | p99 ms | max ms | lost | duplicated |"
    )?;
    writeln!(text, "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for ((inflight, instances), rounds) in by_case(results.channels.iter(), |c| (c.inflight, c.instances)) {
        let of = |value: fn(&Channel) -> f64| middle(&rounds, |c| Some(value(c))).unwrap_or_default();
        let times: Vec<&Latencies> = rounds.iter().map(|c| &c.latencies).collect();
        let beside_one = if instances == 1 { Some(1.0) } else { results.second_instance(inflight) };
        writeln!(
            text,
            "| {inflight} | {instances} | {:.2} + {:.2} | {} | {:.0} | {} | {} | {} |",
            of(|c| c.cpu_us_per_delivery),
            of(|c| c.beside_cpu_us_per_delivery),
            beside_one.map_or("–".to_owned(), number),
            of(|c| c.deliveries_per_second),
            percentiles(&times),
            rounds.iter().map(|c| c.losses.lost).sum::<u64>(),
            rounds.iter().map(|c| c.losses.duplicated).sum::<u64>(),
        )?;
    }
    Ok(())
}

/// Publishing through Redis, by topics.
pub fn write_published(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.published.first() else { return Ok(()) };
    writeln!(
        text,
        "\n### Publishing through Redis: {} publishers, {}\n",
        first.publishers,
        first.persistence.title()
    )?;
    writeln!(
        text,
        "| topics | | events/s | events a script | CPU µs of Redis | × bare script | CPU µs of the backend |"
    )?;
    writeln!(text, "|--:|---|--:|--:|--:|--:|--:|")?;
    for (topics, rounds) in by_case(results.published.iter(), |published| published.topics) {
        let of = |value: fn(&Published) -> f64| middle(&rounds, |p| Some(value(p))).unwrap_or_default();
        writeln!(
            text,
            "| {topics} | platform | {:.0} | {:.1} | {:.2} | {} | {:.2} |",
            of(|p| p.events_per_second),
            of(|p| p.events_per_script),
            of(|p| p.redis_cpu_us_per_event),
            results.redis_cost(topics).map_or("–".to_owned(), number),
            of(|p| p.cpu_us_per_event),
        )?;
        writeln!(
            text,
            "| {topics} | bare script | {:.0} | {:.1} | {:.2} | 1.00 | |",
            of(|p| p.bare.events_per_second),
            of(|p| p.events_per_script),
            of(|p| p.bare.redis_cpu_us_per_event),
        )?;
    }
    Ok(())
}

/// What happens when a backend is killed.
pub fn write_trouble(text: &mut String, results: &Results) -> Result<()> {
    if let Some(first) = results.storms.first() {
        writeln!(
            text,
            "\n### Reconnect storm: {} clients on {} topics, {} missed events each\n",
            first.clients, first.topics, first.missed
        )?;
        writeln!(text, "| | recovered | refused | p50 ms | p95 ms | p99 ms | max ms |")?;
        writeln!(text, "|---|--:|--:|--:|--:|--:|--:|")?;
    }
    for storm in &results.storms {
        let times = percentiles(&[&storm.latencies]);
        writeln!(text, "| {} | {} | {} | {times} |", storm.mode.title(), storm.recovered, storm.refused)?;
    }
    if let Some(first) = results.departures.first() {
        writeln!(text, "\n### Presence of a killed backend's {} clients\n", first.present)?;
        writeln!(text, "| | no longer listed after s | all announced after s |\n|---|--:|--:|")?;
    }
    for Departure { mode, gone_seconds, announced_seconds, .. } in &results.departures {
        writeln!(text, "| {} | {gone_seconds:.1} | {announced_seconds:.1} |", mode.title())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::Losses;
    use crate::documents::{Documents, Merged, PgBench};
    use crate::published::Bare;
    use crate::report::markdown;
    use crate::requests::Answered;
    use crate::stage::Persistence;

    fn merged(services: u64, per_second: f64) -> Merged {
        let latencies = Latencies { p50_us: 1_000, p95_us: 2_000, p99_us: 3_000, max_us: 4_000 };
        Merged {
            spread: Spread { documents: 10 * services, services },
            connections: 64,
            answered: Answered { requests: 10, per_second, latencies },
            cpu_us_per_request: 50.0,
            beside_cpu_us_per_request: 20.0,
        }
    }

    fn documents(mode: Mode, platform: f64, reference: f64) -> Documents {
        let half = Answered { per_second: platform / 2.0, ..merged(16, 0.0).answered };
        let pgbench = PgBench { documents_per_transaction: 32, clients: 2, documents_per_second: reference };
        let compared = |services| Compared {
            mode,
            platform: merged(services, platform),
            half,
            bare: (mode == Mode::Redis).then(|| merged(services, reference)),
            pgbench: (mode == Mode::Postgres).then_some(pgbench),
        };
        let merges = match mode {
            Mode::Redis => vec![compared(16), compared(1)],
            Mode::Postgres => vec![compared(16)],
        };
        let notice = Notice { mode, writes: 300, latencies: half.latencies, answers: Latencies::default() };
        Documents { merges, notice }
    }

    fn channel(instances: usize, cpu: f64) -> Channel {
        Channel {
            instances,
            members: 1000,
            inflight: 16,
            pinned: true,
            deliveries: 1,
            deliveries_per_second: 1.0,
            cpu_us_per_delivery: cpu,
            beside_cpu_us_per_delivery: 0.1,
            latencies: Latencies::default(),
            losses: Losses { lost: 2, duplicated: 0, reordered: 0 },
        }
    }

    fn published(redis: f64, bare: f64) -> Published {
        Published {
            topics: 100,
            publishers: 64,
            persistence: Persistence::Everysec,
            events: 1,
            events_per_second: 30_000.0,
            events_per_script: 8.5,
            cpu_us_per_event: 12.0,
            redis_cpu_us_per_event: redis,
            bare: Bare { events_per_second: 60_000.0, redis_cpu_us_per_event: bare },
        }
    }

    #[test]
    fn a_share_is_of_the_round_in_which_both_were_measured() {
        let mut results = Results::default();
        for (platform, reference) in [(8_000.0, 10_000.0), (3_000.0, 5_000.0), (4_000.0, 5_000.0)] {
            results.documents.push(documents(Mode::Redis, platform, reference));
        }
        results.documents.push(documents(Mode::Postgres, 2_000.0, 5_000.0));
        let text = markdown(&results).unwrap();
        for line in [
            "| the same, many documents, requests/s | ≥ 0.70 × a server that only runs the script | 0.80 | met |",
            "| merges on Redis, a document for each client, requests/s | ≥ 0.70 × a server that only runs the script | – |",
            "| merges on PostgreSQL, requests/s | ≥ 0.50 × pgbench with the same statements | 0.40 | **missed** by 25 % |",
            "| the same at half of that rate, 95th percentile | ≤ 10.0 ms | 2.00 | met |",
            "| document write to client on Redis, median | ≤ 3.00 ms | 1.00 | met |",
            "| platform, Redis | 160 of 16 services | 4000 | 0.80 | 50.0 + 20.0 | 1.00 | 2.00 | 3.00 | 4.00 |",
            "| a server that only runs the script | 10 of one service | 5000 | 1.00 | 50.0 + 20.0 | 1.00 | 2.00 | 3.00 | 4.00 |",
            "| pgbench, 2 transactions of 32 documents | 160 of 16 services | 5000 | 1.00 |  |  | | |  |",
            "| PostgreSQL, the event in the client | 1.00 | 2.00 | 3.00 | 4.00 |",
        ] {
            assert!(text.contains(line), "{line}\nis missing from\n{text}");
        }
    }

    #[test]
    fn two_instances_and_redis_stand_beside_their_references() {
        let mut results = Results::default();
        for (one, two) in [(1.0, 1.3), (2.0, 2.2), (1.0, 1.0)] {
            results.channels.extend([channel(1, one), channel(2, two)]);
        }
        results.published.push(published(14.0, 10.0));
        let text = markdown(&results).unwrap();
        for line in [
            "| the same, 16 under way | ≤ 1.15 × one instance | 1.10 | met |",
            "| publishing to 100 topics, CPU of Redis an event | ≤ 1.30 × a bare script | 1.40 | **missed** by 8 % |",
            "| publishing to 1 topic, CPU of Redis an event | ≤ 1.30 × a bare script | – | not measured |",
            "| 16 | 2 | 1.30 + 0.10 | 1.10 |",
            "| 100 | platform | 30000 | 8.5 | 14.00 | 1.40 | 12.00 |",
            "| 100 | bare script | 60000 | 8.5 | 10.00 | 1.00 | |",
        ] {
            assert!(text.contains(line), "{line}\nis missing from\n{text}");
        }
        assert!(text.contains("| 6 | 0 |"), "losses are summed over the rounds: {text}");
    }

    #[test]
    fn a_storm_counts_those_that_did_not_recover() {
        let latencies = Latencies { max_us: 12_000_000, ..Latencies::default() };
        let storm = Storm {
            mode: Mode::Redis,
            clients: 5000,
            topics: 100,
            missed: 100,
            recovered: 4998,
            refused: 0,
            first_refusal: None,
            latencies,
        };
        let departure =
            Departure { mode: Mode::Redis, present: 100, gone_seconds: 11.0, announced_seconds: 16.0 };
        let results = Results { storms: vec![storm], departures: vec![departure], ..Results::default() };
        let text = markdown(&results).unwrap();
        for line in [
            "| reconnect storm on Redis, until the last has recovered | ≤ 20.0 s | 12.0 | met |",
            "| its clients that have not recovered all | ≤ 0.00 clients | 2.00 | **missed** |",
            "| its attempts that were refused | ≤ 0.00 attempts | 0.00 | met |",
            "| clients of a killed backend are gone, on Redis | ≤ 15.0 s | 16.0 | **missed** by 7 % |",
        ] {
            assert!(text.contains(line), "{line}\nis missing from\n{text}");
        }
    }
}
