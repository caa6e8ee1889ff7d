use super::*;
use futures::future::BoxFuture;
use leadership::{Answer, LeadershipError};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Leases that answer renewals as they are told to, the last answer for ever.
struct Told(Mutex<VecDeque<Result<bool, LeadershipError>>>);

impl Told {
    fn new(answers: impl IntoIterator<Item = Result<bool, LeadershipError>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect())))
    }
}

impl Leader for Told {
    fn acquire(&self, _: &str, _: &str) -> Answer<Option<u64>> {
        unreachable!("who renews has it")
    }

    fn renew(&self, _: &str, _: u64) -> Answer<bool> {
        let mut answers = self.0.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { answer.expect("an answer") })
    }

    fn release(&self, _: &str, _: u64) -> Answer<()> {
        unreachable!("who renews keeps it")
    }

    fn freed(&self, _: &str) -> BoxFuture<'static, ()> {
        unreachable!("who renews has it")
    }
}

fn away() -> Result<bool, LeadershipError> {
    Err(LeadershipError("away".to_owned()))
}

#[tokio::test]
async fn a_leader_goes_on_while_leases_are_away_and_ends_when_another_leads() {
    let session = CancellationToken::new();
    // Away for longer than a lease lasts; then another's.
    let leader = Told::new([Ok(true), away(), away(), away(), away(), Ok(true), away(), Ok(false)]);
    let begun = Instant::now();
    renew(leader.clone(), "cdc/a".to_owned(), 1, begun, session.clone()).await;
    assert!(session.is_cancelled());
    assert_eq!(leader.0.lock().len(), 1, "not before it was told so");
    assert!(begun.elapsed() >= RENEW * 8);
}

#[tokio::test]
async fn what_no_term_fences_ends_with_the_lease() {
    let begun = Instant::now();
    let leader = Told::new([Ok(true), away()]);
    renew_in_time(leader, "cdc/a".to_owned(), 1, begun).await;
    let took = begun.elapsed();
    assert!(took >= LEASE && took < RENEW + LEASE + Duration::from_millis(500), "{took:?}");
    let begun = Instant::now();
    renew_in_time(Told::new([Ok(false)]), "cdc/a".to_owned(), 1, begun).await;
    assert!(begun.elapsed() < LEASE);
}
