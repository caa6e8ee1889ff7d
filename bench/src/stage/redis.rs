//! A Redis of the run's own: the server's process, and what it says of itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::child::{self, Process};
use crate::target::free_port;

const START_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a server keeps over its death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Persistence {
    /// Everything that it answered.
    Always,
    /// All but the last seconds.
    Everysec,
    /// Nothing.
    Nothing,
}

impl Persistence {
    const fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Always => &["--appendonly", "yes", "--appendfsync", "always"],
            Self::Everysec => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::Nothing => &["--appendonly", "no"],
        }
    }

    /// Its name in reports.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Always => "appendfsync always",
            Self::Everysec => "appendfsync everysec",
            Self::Nothing => "no persistence",
        }
    }
}

/// A server on a port and in a directory of its own. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    /// `redis-server` is not installed, or does not serve in time.
    pub async fn start(persistence: Persistence) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench-redis-").tempdir()?;
        let port = free_port()?;
        let mut command = child::command("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--maxmemory-policy", "noeviction", "--no-appendfsync-on-rewrite", "no"]);
        // As the compose file has it.
        command.args(["--auto-aof-rewrite-min-size", "1gb"]);
        command.args(persistence.settings()).arg("--dir").arg(directory.path());
        let mut process = Process::start("redis-server", command, Duration::ZERO)?.with_directory(directory);
        // A pipe that nobody reads would stop it once it is full.
        process.discard_output();
        let until = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if !process.is_alive() || Instant::now() > until {
                return Err(process.complaint("did not start"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { process, port })
    }

    /// `redis://…` of it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives up the process, for somebody else to keep.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// How often it has run a command so far; 0 where never.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn calls(&self, command: &str) -> Result<u64> {
        let stats = self.ask("INFO commandstats").await?;
        Ok(calls_in(stats.first().map_or("", String::as_str), command))
    }

    /// The answer to a command without spaces in its words: its texts, one after the other.
    ///
    /// # Errors
    /// It does not answer, or with an error.
    pub async fn ask(&self, command: &str) -> Result<Vec<String>> {
        timeout(ANSWER_LIMIT, self.exchange(command)).await.context("redis-server does not answer")?
    }

    async fn exchange(&self, command: &str) -> Result<Vec<String>> {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?);
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let (mut texts, mut expected) = (Vec::new(), 1_usize);
        while expected > 0 {
            expected -= 1;
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "redis-server closed the connection");
            let (kind, rest) = line.trim_end().split_at_checked(1).context("an empty answer")?;
            match kind {
                "*" => expected += rest.parse::<usize>().unwrap_or(0),
                "$" => {
                    let length: usize = rest.parse().context("an answer without a length")?;
                    let mut body = vec![0; length + 2];
                    stream.read_exact(&mut body).await?;
                    body.truncate(length);
                    texts.push(String::from_utf8_lossy(&body).into_owned());
                }
                "-" => anyhow::bail!("redis-server refused {command:?}: {rest}"),
                _ => texts.push(rest.to_owned()),
            }
        }
        Ok(texts)
    }
}

fn calls_in(stats: &str, command: &str) -> u64 {
    let start = format!("cmdstat_{command}:calls=");
    let found = stats.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next()?.parse().ok());
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_often_a_command_ran() {
        let stats = "# Commandstats\r\ncmdstat_evalsha:calls=41,usec=7,usec_per_call=0.1\r\ncmdstat_get:calls=3,usec=1\r\n";
        assert_eq!((calls_in(stats, "evalsha"), calls_in(stats, "get"), calls_in(stats, "set")), (41, 3, 0));
    }

    #[tokio::test]
    async fn serves_answers_and_says_what_it_refuses() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let redis = Redis::start(Persistence::Nothing).await.unwrap();
                redis.ask("RPUSH list one two").await.unwrap();
                assert_eq!(redis.ask("LRANGE list 0 -1").await.unwrap(), ["one", "two"]);
                assert_eq!(redis.calls("rpush").await.unwrap(), 1);
                assert!(redis.ask("NOSUCH").await.unwrap_err().to_string().contains("NOSUCH"));
            })
            .await;
    }
}
