//! How long what is felt of a death lasts: presence of a dead backend's clients, and the pause between two leaders of
//! change data capture. Under load, but with nothing else dying meanwhile.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::chaos::Manner;
use super::crew::Crew;
use super::load::Channel;
use super::source::Source;
use super::stack::Stack;
use super::until;
use crate::link::Endpoint;
use crate::rows::Rest;

/// How long a killed backend's clients are waited for, and a new leader.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Readers that were connected to the killed backend have connected anew by then.
const RECONNECTED: Duration = Duration::from_secs(2);

/// What was measured, in seconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// From the death of a backend until the other one says that none of its clients is present.
    pub presence_gone_seconds: f64,
    /// The longest pause between two row changes while the leader was killed.
    pub dead_leader_pause_seconds: f64,
    /// The same while the leader was asked to stop.
    pub stopping_leader_pause_seconds: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a killed backend's clients were present for {:.1} s; rows paused {:.1} s while their leader was killed, \
             {:.1} s while it stopped",
            self.presence_gone_seconds, self.dead_leader_pause_seconds, self.stopping_leader_pause_seconds
        )
    }
}

/// Kills one backend, kills the leader, stops the next leader.
///
/// # Errors
/// Something does not come back.
pub async fn measure(stack: &mut Stack, crew: &Crew) -> Result<Measured> {
    settle(stack, crew).await?;
    let (gone, other) = (0, stack.backends().into_iter().nth(1).context("there are two backends")?);
    // A database that has lost who is where is told again by each backend, in its own time.
    let sockets = until(stack, "all members are present", async |_| {
        let (sockets, present) = (crew.channel.sockets(gone), Channel::present(&Rest::new(&other)?).await?);
        if sockets.is_empty() || !sockets.is_subset(&present) {
            bail!("{} of them are", sockets.intersection(&present).count());
        }
        Ok(sockets)
    })
    .await?;
    stack.kill_backend(gone).await?;
    let killed = Instant::now();
    let presence = spawn_local(async move {
        let rest = Rest::new(&other)?;
        loop {
            // An answer that does not come says nothing.
            if Channel::present(&rest).await.is_ok_and(|present| present.is_disjoint(&sockets)) {
                return Ok(killed.elapsed());
            }
            if killed.elapsed() > LIMIT {
                bail!("the clients of a killed backend are still present");
            }
            sleep(LOOK_EVERY).await;
        }
    });
    sleep(RECONNECTED).await;
    let dead = hand_over(stack, crew, Manner::Kill).await?;
    let stopping = hand_over(stack, crew, Manner::Stop).await?;
    let presence: Duration = presence.await.context("looking for presence was cut off")??;
    stack.start_missing()?;
    Ok(Measured {
        presence_gone_seconds: presence.as_secs_f64(),
        dead_leader_pause_seconds: dead.as_secs_f64(),
        stopping_leader_pause_seconds: stopping.as_secs_f64(),
    })
}

/// Waits until everything runs again, members are present, and rows flow.
async fn settle(stack: &mut Stack, crew: &Crew) -> Result<()> {
    until(stack, "everything is back", async |stack| {
        stack.ready().await?;
        let backends: Vec<Endpoint> = stack.backends();
        if (0..backends.len()).any(|backend| !crew.channel.is_full(backend)) {
            bail!("not all members of the channel are back");
        }
        Ok(())
    })
    .await?;
    follow_one(stack, crew).await
}

/// Waits until a row arrives that is committed from now on.
async fn follow_one(stack: &mut Stack, crew: &Crew) -> Result<()> {
    let issued = crew.book(Source::Database).borrow().issued();
    until(stack, "rows arrive", async |_| {
        let rows = crew.readers(Source::Database);
        let arrived = rows.live().all(|(_, account)| account.borrow().keys().any(|key| key > issued));
        if arrived { Ok(()) } else { bail!("no row has arrived") }
    })
    .await
}

/// Ends the leader, waits until another leads and rows flow, and answers the longest pause that was felt.
async fn hand_over(stack: &mut Stack, crew: &Crew, manner: Manner) -> Result<Duration> {
    until(stack, "all workers are ready", async |stack| stack.ready_workers().await).await?;
    follow_one(stack, crew).await?;
    let leader = until(stack, "somebody leads", async |stack| {
        let leader = stack.leader().await.filter(|pid| stack.runs(*pid));
        leader.context("nobody says that it leads")
    })
    .await?;
    let now = Instant::now();
    crew.readers(Source::Database).live().for_each(|(_, account)| account.borrow_mut().open_window(now));
    stack.end_workers(leader, manner).await?;
    until(stack, "another leads", async |stack| {
        let other = stack.leader().await.filter(|pid| *pid != leader && stack.runs(*pid));
        other.map(|_| ()).context("nobody else says that it leads")
    })
    .await?;
    follow_one(stack, crew).await?;
    // What each of them felt beyond that is its own connection's.
    let pauses = crew.readers(Source::Database).live().map(|(_, account)| account.borrow().window_silence());
    let pause = pauses.min().unwrap_or_default();
    stack.start_missing_workers()?;
    Ok(pause)
}
