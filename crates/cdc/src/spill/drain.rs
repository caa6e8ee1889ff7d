//! The way out of the spill, beside the stream: one append under way at a time, tried again while the log refuses.

use super::{Spill, SpillError};
use event_log::LogError;
use event_router::EventRouter;
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a log that refuses is left alone.
const AGAIN: Duration = Duration::from_millis(500);

/// What became of a step.
#[derive(Debug)]
pub(crate) enum Drained {
    /// Nothing is in the spill.
    Empty,
    /// So many events were sent.
    Sent(usize),
    /// The log does not take them.
    Refused(LogError),
}

struct UnderWay {
    future: BoxFuture<'static, Result<Drained, SpillError>>,
    begun: Instant,
    /// How often something had been spilled when it began.
    pushes: u64,
}

/// Empties a spill.
pub(crate) struct Drain {
    spill: Arc<Spill>,
    router: EventRouter,
    under_way: Option<UnderWay>,
    not_before: Instant,
    is_refused: bool,
    pushes: u64,
    /// There is nothing to do until something is spilled.
    is_idle: bool,
}

impl Drain {
    /// One that has not begun; `is_refused` where the log has just refused something that is to be spilled.
    pub fn new(spill: Arc<Spill>, router: EventRouter, is_refused: bool) -> Self {
        Self {
            spill,
            router,
            under_way: None,
            not_before: Instant::now(),
            is_refused,
            pushes: 0,
            is_idle: false,
        }
    }

    /// The spill.
    pub fn spill(&self) -> &Arc<Spill> {
        &self.spill
    }

    /// Whether the log takes nothing now: it has refused, or has not answered for `patience`.
    pub fn is_stuck(&self, patience: Option<Duration>) -> bool {
        let is_late = |under_way: &UnderWay| patience.is_some_and(|limit| under_way.begun.elapsed() > limit);
        self.is_refused || self.under_way.as_ref().is_some_and(is_late)
    }

    /// Something is about to be spilled, or has been.
    pub fn pushed(&mut self) {
        self.pushes += 1;
        self.is_idle = false;
    }

    /// Sends the next events. Answers whether the spill is empty and stays so, with how many events were sent. Dropping
    /// it leaves the step under way.
    ///
    /// # Errors
    /// As [`Spill::send`].
    pub async fn step(&mut self) -> Result<Step, SpillError> {
        if self.is_idle {
            return std::future::pending().await;
        }
        if self.under_way.is_none() {
            tokio::time::sleep_until(self.not_before).await;
            let (spill, router) = (self.spill.clone(), self.router.clone());
            let future = Box::pin(async move { spill.send(&router).await });
            self.under_way = Some(UnderWay { future, begun: Instant::now(), pushes: self.pushes });
        }
        let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
        let drained = (&mut under_way.future).await;
        let pushes = under_way.pushes;
        self.under_way = None;
        Ok(match drained? {
            Drained::Sent(events) => {
                self.is_refused = false;
                Step::Sent(events)
            }
            Drained::Refused(error) => {
                if !self.is_refused {
                    tracing::warn!(%error, "the log takes no spilled events; trying again");
                }
                self.is_refused = true;
                self.not_before = Instant::now() + AGAIN;
                Step::Waiting
            }
            Drained::Empty if pushes != self.pushes => Step::Waiting,
            Drained::Empty if self.is_refused => {
                // What was refused has not been read again yet.
                self.is_idle = true;
                Step::Waiting
            }
            Drained::Empty => Step::Empty,
        })
    }
}

/// What a step has brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many events were sent.
    Sent(usize),
    /// There is more to be done.
    Waiting,
    /// Nothing is in the spill, and nothing is on its way into it that has not been counted.
    Empty,
}
