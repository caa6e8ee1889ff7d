//! How the time that a stop in order may take is shared out.

use std::time::Duration;
use tokio::time::Instant;

/// By when the parts of a stop in order are over, whether or not they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    /// Connections have ended, requests are answered and leaderships handed over: three fifths of the whole.
    pub served: Instant,
    /// What goes on in the background has ended; documents are flushed.
    pub ended: Instant,
    /// The connections to the database are closed, and the process may end.
    pub closed: Instant,
}

impl StopTimes {
    /// The times of a stop that begins at `begun` and takes `limit` at most.
    pub fn new(begun: Instant, limit: Duration) -> Self {
        Self { served: begun + limit * 3 / 5, ended: begun + limit * 24 / 25, closed: begun + limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_nine_of_twenty_five_seconds_to_be_flushed() {
        let begun = Instant::now();
        let times = StopTimes::new(begun, Duration::from_secs(25));
        assert_eq!(times.served - begun, Duration::from_secs(15));
        assert_eq!(times.ended - times.served, Duration::from_secs(9));
        assert_eq!(times.closed - begun, Duration::from_secs(25));
    }
}
