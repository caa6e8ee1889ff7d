//! Requests over connections that stay open: one at a time on each, as fast as they are answered or at a
//! steady rate.
//!
//! The load generator's own HTTP client, for the reason that its other decoders have. It knows nothing of
//! what the requests say.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::try_join_all;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::accounting::{Latencies, LatencyRecorder};
use crate::wire::http::answer;

const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Caller {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(16 * 1024) })
    }

    /// Connects so often.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open_many(address: &str, count: usize) -> Result<Vec<Self>> {
        try_join_all((0..count).map(|_| Self::open(address))).await
    }

    /// Sends a request and reads its answer's body.
    ///
    /// # Errors
    /// It is refused, with the answer, or not answered in time.
    pub async fn call(&mut self, request: &[u8]) -> Result<Bytes> {
        timeout(ANSWER_LIMIT, self.exchange(request))
            .await
            .with_context(|| format!("no answer within {} s", ANSWER_LIMIT.as_secs()))?
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Bytes> {
        self.stream.write_all(request).await?;
        let extent = loop {
            if let Some(extent) = answer(&self.buffer)? {
                break extent;
            }
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        };
        let mut whole = self.buffer.split_to(extent.end).freeze();
        whole.advance(extent.body);
        ensure!(
            (200..300).contains(&extent.status),
            "refused with {}: {}",
            extent.status,
            String::from_utf8_lossy(&whole)
        );
        Ok(whole)
    }
}

/// How requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// The next one on a connection as soon as the one before is answered.
    Closed,
    /// So many a second, whether the earlier ones are answered or not.
    Open(f64),
}

/// What a number of requests took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Answered {
    /// Requests answered.
    pub requests: u64,
    /// The same a second.
    pub per_second: f64,
    /// From the request's time until its answer is read. Its time is when it was sent, at a steady rate when it
    /// was due: that it waits for a free connection is in it.
    pub latencies: Latencies,
}

/// Sends requests over all connections for so long. `request` makes the one of a number.
///
/// # Errors
/// A request is refused or not answered.
pub async fn drive(
    callers: &mut [Caller],
    pace: Pace,
    duration: Duration,
    request: impl Fn(u64) -> Vec<u8>,
) -> Result<Answered> {
    let run = Run::start(pace, duration, callers.len());
    let recorder = Rc::new(RefCell::new(LatencyRecorder::new()));
    let followed = callers.iter_mut().map(|caller| run.follow(caller, &recorder, &request));
    try_join_all(followed).await?;
    let seconds = run.started.elapsed().as_secs_f64();
    let recorder = recorder.borrow();
    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    let per_second = recorder.count() as f64 / seconds;
    Ok(Answered { requests: recorder.count(), per_second, latencies: recorder.latencies() })
}

struct Run {
    started: Instant,
    duration: Duration,
    pace: Pace,
    next: Cell<u64>,
    /// At a steady rate, a permit for each request that is due.
    due: Arc<Semaphore>,
}

impl Run {
    fn start(pace: Pace, duration: Duration, callers: usize) -> Self {
        let (started, due) = (Instant::now(), Arc::new(Semaphore::new(0)));
        if let Pace::Open(_) = pace {
            let due = due.clone();
            thread::spawn(move || keep_time(pace, started, duration, callers, &due));
        }
        Self { started, duration, pace, next: Cell::default(), due }
    }

    async fn follow(
        &self,
        caller: &mut Caller,
        recorder: &RefCell<LatencyRecorder>,
        request: &impl Fn(u64) -> Vec<u8>,
    ) -> Result<()> {
        loop {
            if let Pace::Open(_) = self.pace {
                self.due.acquire().await?.forget();
            }
            let Some((number, due)) = self.take() else { return Ok(()) };
            caller.call(&request(number)).await?;
            recorder.borrow_mut().note(due.elapsed());
        }
    }

    /// The next request's number and time, or `None` once the time is over.
    fn take(&self) -> Option<(u64, Instant)> {
        let number = self.next.get();
        let due = due(self.pace, self.started, Instant::now(), number);
        if due.duration_since(self.started) >= self.duration {
            return None;
        }
        self.next.set(number + 1);
        Some((number, due))
    }
}

/// Lets requests go when they are due, and all callers once the time is over. By a thread, for the runtime's timer goes
/// by whole milliseconds: it would send several at once, and all too late.
fn keep_time(pace: Pace, started: Instant, duration: Duration, callers: usize, gate: &Semaphore) {
    for number in 0.. {
        let now = Instant::now();
        let due = due(pace, started, now, number);
        if due.duration_since(started) >= duration {
            break;
        }
        thread::sleep(due.saturating_duration_since(now));
        gate.add_permits(1);
    }
    gate.add_permits(callers);
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn due(pace: Pace, started: Instant, now: Instant, number: u64) -> Instant {
    match pace {
        Pace::Closed => now,
        Pace::Open(per_second) => started + Duration::from_secs_f64(number as f64 / per_second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn a_steady_rate_does_not_wait_for_answers() {
        let started = Instant::now();
        let late = started + Duration::from_secs(9);
        assert_eq!(due(Pace::Open(100.0), started, late, 250), started + Duration::from_millis(2500));
        assert_eq!(due(Pace::Closed, started, late, 250), late);
    }

    /// Answers each request with its own body, `delay` later.
    async fn echo(delay: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut bytes = vec![0; 1024];
                    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                        tokio::time::sleep(delay).await;
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn waiting_for_a_connection_counts() {
        let address = echo(Duration::from_millis(50)).await;
        let mut callers = Caller::open_many(&address, 1).await.unwrap();
        // Ten are due within 100 ms, over a connection that takes 50 ms each: the last waits for the others.
        let request = |_| b"GET / HTTP/1.1\r\n\r\n".to_vec();
        let answered =
            drive(&mut callers, Pace::Open(100.0), Duration::from_millis(100), request).await.unwrap();
        assert_eq!(answered.requests, 10);
        assert!(answered.latencies.max_us >= 350_000, "{answered:?}");
        let closed = drive(&mut callers, Pace::Closed, Duration::from_millis(200), request).await.unwrap();
        assert!((1..=4).contains(&closed.requests), "{closed:?}");
    }
}
