//! How fast a connection's client may send, and when it has done so for too long.

use std::time::Duration;
use tokio::time::Instant;

/// Messages above the rate for longer than this close the connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// A token bucket, and since when it has been empty.
pub struct Rate {
    tokens: f64,
    filled_at: Instant,
    over_since: Option<Instant>,
}

/// What a message meets at the rate limit.
pub enum Admission {
    /// It may be looked at.
    Admitted,
    /// It is one too many.
    Refused,
    /// It is one too many for too long.
    Closed,
}

impl Rate {
    /// A full one, of `burst` messages.
    pub fn full(burst: u32, now: Instant) -> Self {
        Self { tokens: f64::from(burst), filled_at: now, over_since: None }
    }

    /// Counts a message against `per_second`, of which `burst` may come at once.
    pub fn admit(&mut self, per_second: f64, burst: f64, now: Instant) -> Admission {
        let elapsed = now.duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * per_second).min(burst);
        self.filled_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            // A client that only just stays under the limit again has not come to rest yet.
            if self.tokens > burst / 10.0 {
                self.over_since = None;
            }
            return Admission::Admitted;
        }
        let since = *self.over_since.get_or_insert(now);
        if now.duration_since(since) > PATIENCE { Admission::Closed } else { Admission::Refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_over_the_rate_is_refused_and_in_the_end_closed() {
        let begun = Instant::now();
        let mut rate = Rate::full(200, begun);
        let mut refused = 0;
        for tick in 0..2_000u32 {
            match rate.admit(100.0, 200.0, begun + Duration::from_millis(5) * tick) {
                Admission::Admitted => {}
                Admission::Refused => refused += 1,
                Admission::Closed => {
                    assert!((400..=600).contains(&refused), "about half of 5 s at 200/s: {refused}");
                    return;
                }
            }
        }
        panic!("twice the rate for 10 s must close the connection");
    }

    #[test]
    fn a_burst_is_let_through_and_forgotten() {
        let begun = Instant::now();
        let mut rate = Rate::full(200, begun);
        for _ in 0..200 {
            assert!(matches!(rate.admit(100.0, 200.0, begun), Admission::Admitted));
        }
        assert!(matches!(rate.admit(100.0, 200.0, begun), Admission::Refused));
        assert!(matches!(rate.admit(100.0, 200.0, begun + Duration::from_secs(9)), Admission::Admitted));
        assert!(rate.over_since.is_none());
    }
}
