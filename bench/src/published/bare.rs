//! The reference of publishing on Redis: a script with ready-made arguments that issues the commands of an
//! append and does nothing else.
//!
//! One lane a partition that the platform used, each with one script under way, as the platform's lanes
//! have; with as many events a script, of the same topics and as long.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use futures::future::try_join_all;
use serde::Serialize;

use crate::procfs;
use crate::stage::{Persistence, Redis};

const SCRIPT: &str = include_str!("bare.lua");
const WARM_UP: Duration = Duration::from_secs(1);
/// As a head is stored.
const POSITION: &str = "0123456789abcdef0123:100000";
/// As events' positions begin.
const EPOCH: &str = "0123456789abcdef0123";

/// What the script reached.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bare {
    /// Events a second.
    pub events_per_second: f64,
    /// Redis' CPU time an event, in microseconds.
    pub redis_cpu_us_per_event: f64,
}

/// What the platform sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The topics of each partition: the keys of their histories, by what the partition's keys begin with.
    pub partitions: BTreeMap<String, Vec<String>>,
    /// An event as it is stored, behind its position.
    pub event: String,
    /// Events a script, on average.
    pub events_per_script: f64,
}

impl Shape {
    /// Reads it from what the platform left in its Redis.
    ///
    /// # Errors
    /// Nothing was published.
    pub async fn read(redis: &Redis, events_per_script: f64) -> Result<Self> {
        let histories = redis.ask("KEYS realtime:*:history:*bench.publish*").await?;
        let first = histories.first().context("the platform has no history of what was published")?;
        let last = redis.ask(&format!("XREVRANGE {first} + - COUNT 1")).await?;
        let (_, event) =
            last.last().and_then(|event| event.split_once('\n')).context("a history is empty")?;
        Ok(Self { partitions: by_partition(histories)?, event: event.to_owned(), events_per_script })
    }
}

fn by_partition(histories: Vec<String>) -> Result<BTreeMap<String, Vec<String>>> {
    let mut partitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for history in histories {
        let (partition, _) = history.split_once("history:").context("a history's key has its name")?;
        partitions.entry(partition.to_owned()).or_default().push(history);
    }
    Ok(partitions)
}

/// Runs the script for so long on a fresh server.
///
/// # Errors
/// Redis does not start, or refuses.
pub async fn measure(persistence: Persistence, shape: &Shape, seconds: u64) -> Result<Bare> {
    let redis = Redis::start(persistence).await?;
    let mut builder = Builder::from_config(Config::from_url(&redis.url())?);
    builder.with_connection_config(|connection| connection.tcp.nodelay = Some(true));
    let client = builder.build()?;
    client.init().await?;
    let sha: String = client.custom(command("SCRIPT"), vec!["LOAD", SCRIPT]).await?;
    let (appended, stop) = (Cell::new(0_u64), Cell::new(false));
    let lanes = shape.partitions.iter().map(|(partition, histories)| Lane {
        client: &client,
        sha: &sha,
        partition,
        histories,
        event: &shape.event,
        size: Sizes::new(shape.events_per_script),
        next: 0,
        written: 100_000,
    });
    let lanes = try_join_all(lanes.map(|lane| lane.run(&appended, &stop)));
    let watch = watch(&redis, &appended, &stop, seconds);
    let (measured, _) = tokio::try_join!(watch, lanes)?;
    client.quit().await?;
    Ok(measured)
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
async fn watch(redis: &Redis, appended: &Cell<u64>, stop: &Cell<bool>, seconds: u64) -> Result<Bare> {
    tokio::time::sleep(WARM_UP).await;
    let (events, cpu, started) = (appended.get(), procfs::cpu_time(redis.pid())?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let events = (appended.get() - events).max(1) as f64;
    let cpu = procfs::cpu_time(redis.pid())?.saturating_sub(cpu);
    stop.set(true);
    Ok(Bare {
        events_per_second: events / started.elapsed().as_secs_f64(),
        redis_cpu_us_per_event: cpu.as_secs_f64() * 1e6 / events,
    })
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

/// Whole numbers whose mean is the given one.
#[derive(Debug)]
struct Sizes {
    mean: f64,
    owed: f64,
}

impl Sizes {
    fn new(mean: f64) -> Self {
        Self { mean: mean.max(1.0), owed: 0.0 }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a script's events
    fn next(&mut self) -> usize {
        self.owed += self.mean;
        let size = self.owed.floor().max(1.0);
        self.owed -= size;
        size as usize
    }
}

struct Lane<'a> {
    client: &'a Client,
    sha: &'a str,
    partition: &'a str,
    histories: &'a [String],
    event: &'a str,
    size: Sizes,
    next: usize,
    written: u64,
}

impl Lane<'_> {
    async fn run(mut self, appended: &Cell<u64>, stop: &Cell<bool>) -> Result<()> {
        while !stop.get() {
            let size = self.size.next();
            let words = self.words(size);
            let _: Value = self.client.custom(command("EVALSHA"), words).await?;
            appended.set(appended.get() + size as u64);
        }
        Ok(())
    }

    /// The next events go to the partition's topics in turn, and stand topic by topic. Each is another text, as real
    /// ones are: of the same text the server's Lua would keep one copy only.
    fn words(&mut self, size: usize) -> Vec<Value> {
        let topics = self.histories.len().min(size);
        let keys = 3 + 2 * topics;
        let mut words: Vec<Value> = vec![self.sha.into(), Value::Integer(keys as i64)];
        words.extend(
            ["meta", "side-effects", "writer:bench"].map(|name| format!("{}{name}", self.partition).into()),
        );
        let chosen: Vec<&String> =
            (0..topics).map(|topic| &self.histories[(self.next + topic) % self.histories.len()]).collect();
        for history in &chosen {
            words.push(history.replacen(":history:", ":head:", 1).into());
            words.push(history.as_str().into());
        }
        words.push(POSITION.into());
        for (topic, history) in chosen.into_iter().enumerate() {
            let events = size / topics + usize::from(topic < size % topics);
            let name = history.split_once("history:").map_or("", |(_, name)| name);
            words.push(format!("realtime:event:{name}").into());
            words.push(Value::Integer(events as i64));
            for _ in 0..events {
                self.written += 1;
                words.push(format!("{EPOCH}:{}\n{}", self.written, self.event).into());
            }
        }
        self.next += topics;
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_mean() {
        let mut sizes = Sizes::new(2.4);
        let total: usize = (0..100).map(|_| sizes.next()).sum();
        assert!((239..=240).contains(&total), "{total}");
        assert_eq!((0..5).map(|_| Sizes::new(0.2).next()).sum::<usize>(), 5, "never an empty script");
    }

    #[test]
    fn topics_of_a_partition_share_its_lane() {
        let names = ["{p07}:history:a:d:x", "{p07}:history:a:d:y", "{p11}:history:a:d:z"];
        let found = by_partition(names.map(|name| format!("realtime:{name}")).to_vec()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["realtime:{p07}:", "realtime:{p11}:"]);
        assert_eq!(found["realtime:{p07}:"].len(), 2);
    }

    #[test]
    fn a_script_holds_its_events_topic_by_topic() {
        let histories = ["a", "b"].map(|name| format!("realtime:{{p01}}:history:{name}"));
        let client = Builder::default_centralized().build().unwrap();
        let mut lane = Lane {
            client: &client,
            sha: "sha",
            partition: "realtime:{p01}:",
            histories: &histories,
            event: "e",
            size: Sizes::new(3.0),
            next: 1,
            written: 0,
        };
        let words: Vec<String> =
            lane.words(3).into_iter().map(|word| word.as_string().unwrap_or_default()).collect();
        assert_eq!(
            words.join(" "),
            "sha 7 realtime:{p01}:meta realtime:{p01}:side-effects realtime:{p01}:writer:bench \
             realtime:{p01}:head:b realtime:{p01}:history:b realtime:{p01}:head:a realtime:{p01}:history:a \
             0123456789abcdef0123:100000 realtime:event:b 2 \
             0123456789abcdef0123:1\ne 0123456789abcdef0123:2\ne \
             realtime:event:a 1 0123456789abcdef0123:3\ne"
        );
    }
}
