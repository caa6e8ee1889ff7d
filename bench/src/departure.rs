//! Presence of a killed backend's clients: how long another instance still shows them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::host::ensure_open_files;
use crate::link::{Link, Transport};
use crate::session::fresh_topic;
use crate::stage::{Cores, Mode, Options, Stage};

const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who is present.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Clients of the backend that is killed
    #[arg(long, default_value_t = 100)]
    pub present: usize,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Departure {
    /// What stands behind the backends.
    pub mode: Mode,
    /// Clients of the killed backend.
    pub present: usize,
    /// From the kill until the other instance lists none of them, in seconds.
    pub gone_seconds: f64,
    /// From the kill until the other instance has announced that each of them left, in seconds.
    pub announced_seconds: f64,
}

/// Measures it once.
///
/// # Errors
/// A backend does not start; or the clients are still there after a minute.
pub async fn measure(options: &Options, mode: Mode, load: &Load) -> Result<Departure> {
    ensure_open_files(load.present as u64 + 200)?;
    let mut stage = Stage::start(options, mode, 2, Cores::All).await?;
    let measured = departure(&mut stage, mode, load).await;
    stage.explain(measured)
}

async fn departure(stage: &mut Stage, mode: Mode, load: &Load) -> Result<Departure> {
    let doomed = stage.take_backend()?;
    let channel = format!("\"channel\":\"{}\"", fresh_topic("present")?);
    let mut watcher =
        present(stage, stage.backend().endpoint().address.as_str(), "watcher", &channel).await?;
    let mut clients = Vec::with_capacity(load.present);
    for number in 0..load.present {
        let name = format!("client{number}");
        clients.push(present(stage, &doomed.endpoint().address, &name, &channel).await?);
    }
    let mut asking = present(stage, stage.backend().endpoint().address.as_str(), "asking", &channel).await?;
    timeout(LIMIT, until_members(&mut asking, &channel, load.present + 2))
        .await
        .context("not all appeared")??;
    let killed = Instant::now();
    doomed.kill().await?;
    let (gone, announced) = timeout(LIMIT, async {
        tokio::try_join!(until_members(&mut asking, &channel, 2), until_left(&mut watcher, load.present))
    })
    .await
    .context("the clients of a killed backend are still there")??;
    let seconds = |at: Instant| at.duration_since(killed).as_secs_f64();
    Ok(Departure {
        mode,
        present: load.present,
        gone_seconds: seconds(gone),
        announced_seconds: seconds(announced),
    })
}

/// A client of a name of its own that is present in the channel.
async fn present(stage: &Stage, address: &str, name: &str, channel: &str) -> Result<Link> {
    let mut link = Link::open(&stage.endpoint_as(address, name)?, Transport::Ws, None).await?;
    link.ask("presence:enter", channel).await?;
    Ok(link)
}

/// Asks until so many are present; answers when it was told so.
async fn until_members(link: &mut Link, channel: &str, count: usize) -> Result<Instant> {
    loop {
        let answer: Value = serde_json::from_slice(&link.ask("presence:get", channel).await?)?;
        let members = answer["members"].as_array().context("the answer has members")?;
        if members.len() == count {
            return Ok(Instant::now());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Waits for so many announcements that somebody left, each of another; answers when the last one came.
async fn until_left(link: &mut Link, count: usize) -> Result<Instant> {
    let mut left = std::collections::BTreeSet::new();
    while left.len() < count {
        left.extend(leaver(&link.next_text().await?));
    }
    Ok(Instant::now())
}

/// Who left, where a text says so.
fn leaver(text: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let is_leave = value["type"] == "presence" && value["action"] == "leave";
    is_leave.then(|| value["member"]["clientId"].as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_leave_count() {
        let text = |action: &str| {
            format!(
                r#"{{"type":"presence","channel":"c","action":"{action}","member":{{"clientId":"client7"}}}}"#
            )
        };
        assert_eq!(leaver(text("leave").as_bytes()).as_deref(), Some("client7"));
        assert_eq!(leaver(text("update").as_bytes()), None);
        assert_eq!(leaver(br#"{"type":"event"}"#), None);
    }
}
