//! The goals, and what was measured of each.

use std::fmt::Write;

use anyhow::Result;

use super::{Results, millis, number, ratio};
use crate::documents::Compared;
use crate::link::Transport;
use crate::stage::Mode;
use crate::target::Target;

/// Which side of its limit a goal lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

#[derive(Debug, Clone)]
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

    const fn at_least(measure: &'static str, limit: f64, unit: &'static str, measured: Option<f64>) -> Self {
        Self { measure, bound: Bound::AtLeast, limit, unit, measured }
    }

    fn verdict(&self) -> String {
        let Some(measured) = self.measured else { return "not measured".to_owned() };
        let (met, by) = match self.bound {
            Bound::AtMost => (measured <= self.limit, measured / self.limit),
            Bound::AtLeast => (measured >= self.limit, self.limit / measured),
        };
        match (met, by.is_finite()) {
            (true, _) => "met".to_owned(),
            (false, true) => format!("**missed** by {:.0} %", (by - 1.0) * 100.0),
            (false, false) => "**missed**".to_owned(),
        }
    }
}

/// The gateways' and change data capture's.
fn delivery_goals(results: &Results) -> Vec<Goal> {
    use Target::{Bun, NodeSocketio, NodeSocketioRedis, NodeWs, Platform, TokioBare};
    use Transport::{SocketIo, Ws};
    let idle = |transport| results.of((Platform, transport, 1), |fanout| fanout.idle_kib_per_connection);
    let beside = |transport, inflight, other| results.cpu_ratio((Platform, transport, inflight), other);
    let commit = results.commit_to_client.as_ref().map(|commit| commit.latencies);
    let throughput = results.throughput.as_ref();
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
        Goal::at_least("CDC, events appended", 30_000.0, "rows/s", throughput.map(|cdc| cdc.rows_per_second)),
        Goal::at_most("CDC, CPU a row of decode and evaluate", 2.0, "× pg_recvlogical", decode),
    ]
}

fn document_goals(results: &Results) -> Vec<Goal> {
    use Mode::{Postgres, Redis};
    use std::cmp::Ordering::{Equal, Greater, Less};
    // More documents than those who write, as many, or fewer.
    let documents =
        |compared: &Compared| compared.platform.spread.documents.cmp(&(compared.platform.connections as u64));
    let share = |mode, which| {
        results.merges(mode, |compared| {
            let reference = compared.reference_per_second().filter(|_| documents(compared) == which)?;
            ratio(Some(compared.platform.answered.per_second), Some(reference))
        })
    };
    let half = |mode, which| {
        let p95 = |compared: &Compared| millis(compared.half.latencies.p95_us);
        results.merges(mode, |compared| (documents(compared) == which).then(|| p95(compared)))
    };
    let median = |mode| results.notice(mode, |notice| millis(notice.latencies.p50_us));
    let rare = |mode| results.notice(mode, |notice| millis(notice.latencies.p99_us));
    const BARE: &str = "× a server that only runs the script";
    const PGBENCH: &str = "× pgbench with the same statements";
    vec![
        Goal::at_least(
            "merges on Redis, a document for each client, requests/s",
            0.7,
            BARE,
            share(Redis, Equal),
        ),
        Goal::at_most("the same at half of that rate, 95th percentile", 10.0, "ms", half(Redis, Equal)),
        Goal::at_least("the same, few documents, requests/s", 0.7, BARE, share(Redis, Less)),
        Goal::at_most("the same at half of that rate, 95th percentile", 10.0, "ms", half(Redis, Less)),
        Goal::at_least("the same, many documents, requests/s", 0.7, BARE, share(Redis, Greater)),
        Goal::at_most("the same at half of that rate, 95th percentile", 10.0, "ms", half(Redis, Greater)),
        Goal::at_least("merges on PostgreSQL, requests/s", 0.5, PGBENCH, share(Postgres, Greater)),
        Goal::at_most("the same at half of that rate, 95th percentile", 25.0, "ms", half(Postgres, Greater)),
        Goal::at_most("document write to client on Redis, median", 3.0, "ms", median(Redis)),
        Goal::at_most("the same, 99th percentile", 20.0, "ms", rare(Redis)),
        Goal::at_most("document write to client on PostgreSQL, median", 3.0, "ms", median(Postgres)),
        Goal::at_most("the same, 99th percentile", 20.0, "ms", rare(Postgres)),
    ]
}

/// What is about several instances, and about what they share.
fn instance_goals(results: &Results) -> Vec<Goal> {
    use Mode::{Postgres, Redis};
    const ONE: &str = "× one instance";
    const SCRIPT: &str = "× a bare script";
    const STORM: [&str; 2] =
        ["reconnect storm on Redis, until the last has recovered", "the same on PostgreSQL"];
    let mut goals = vec![
        Goal::at_most(
            "channel over 2 instances, one at a time, CPU a delivery",
            1.15,
            ONE,
            results.second_instance(1),
        ),
        Goal::at_most("the same, 16 under way", 1.15, ONE, results.second_instance(16)),
        Goal::at_most("publishing to 1 topic, CPU of Redis an event", 1.3, SCRIPT, results.redis_cost(1)),
        Goal::at_most(
            "publishing to 100 topics, CPU of Redis an event",
            1.3,
            SCRIPT,
            results.redis_cost(100),
        ),
        Goal::at_most("clients of a killed backend are gone, on Redis", 15.0, "s", results.departed(Redis)),
        Goal::at_most("the same on PostgreSQL", 15.0, "s", results.departed(Postgres)),
    ];
    for (mode, measure) in [Redis, Postgres].into_iter().zip(STORM) {
        goals.push(Goal::at_most(
            measure,
            20.0,
            "s",
            results.storm(mode, |storm| seconds(storm.latencies.max_us)),
        ));
        #[allow(clippy::cast_precision_loss)] // clients
        let lacking =
            results.storm(mode, |storm| (storm.clients as u64).saturating_sub(storm.recovered) as f64);
        goals.push(Goal::at_most("its clients that have not recovered all", 0.0, "clients", lacking));
        #[allow(clippy::cast_precision_loss)] // attempts
        let refused = results.storm(mode, |storm| storm.refused as f64);
        goals.push(Goal::at_most("its attempts that were refused", 0.0, "attempts", refused));
    }
    goals
}

#[allow(clippy::cast_precision_loss)] // microseconds of at most a minute
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// The goals as a table.
pub fn write_goals(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "### Goals\n\n| measure | goal | measured | |\n|---|---|---|---|")?;
    for goal in [delivery_goals(results), document_goals(results), instance_goals(results)].concat() {
        let sign = if goal.bound == Bound::AtMost { "≤" } else { "≥" };
        let measured = goal.measured.map_or("–".to_owned(), number);
        let (limit, verdict) = (number(goal.limit), goal.verdict());
        writeln!(text, "| {} | {sign} {limit} {} | {measured} | {verdict} |", goal.measure, goal.unit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_goals_are_missed_from_below() {
        let goal = |measured| Goal::at_least("", 30.0, "", measured);
        assert_eq!(goal(Some(30.0)).verdict(), "met");
        assert_eq!(goal(Some(20.0)).verdict(), "**missed** by 50 %");
        assert_eq!(goal(None).verdict(), "not measured");
    }

    #[test]
    fn none_at_all_is_met_by_none_only() {
        assert_eq!(Goal::at_most("", 0.0, "", Some(0.0)).verdict(), "met");
        assert_eq!(Goal::at_most("", 0.0, "", Some(3.0)).verdict(), "**missed**");
    }
}
