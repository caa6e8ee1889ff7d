//! Who is struck when: the plan, which a seed repeats, and striking.
//!
//! Every part of the platform dies in turn, in an order that chance gives each round, and one process a round is
//! asked to stop in order instead.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep, sleep_until};

use super::outcome::Toll;
use super::stack::Stack;

/// What is asked to stop in order, in turn.
const STOPPED: [Victim; 2] = [Victim::Backend, Victim::Leader];

/// What is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// One of the backends.
    Backend,
    /// The workers that lead change data capture, as far as that is known; any otherwise.
    Leader,
    /// One of the workers.
    Workers,
    /// The platform as one process.
    Platform,
    /// Redis.
    Redis,
    /// PostgreSQL.
    Postgres,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// SIGKILL.
    Kill,
    /// SIGTERM, which ends in order.
    Stop,
}

/// One entry of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// What is struck.
    pub victim: Victim,
    /// How.
    pub manner: Manner,
    /// Which of several, by chance.
    pub pick: u64,
    /// How long it stays away.
    pub down: Duration,
}

/// A source of chance that gives the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound.max(1)
    }
}

/// An endless sequence of blows.
#[derive(Debug)]
pub struct Plan {
    chance: Chance,
    victims: Vec<Victim>,
    round: Vec<Blow>,
    rounds: u64,
}

impl Plan {
    /// A plan over these victims.
    pub fn new(seed: u64, victims: Vec<Victim>) -> Self {
        Self { chance: Chance::new(seed), victims, round: Vec::new(), rounds: 0 }
    }

    /// After how many blows every part was struck.
    pub fn round_length(&self) -> usize {
        self.victims.len() + usize::from(self.has_stops())
    }

    fn has_stops(&self) -> bool {
        STOPPED.iter().all(|victim| self.victims.contains(victim))
    }

    fn next_round(&mut self) {
        let victims = self.victims.clone();
        let mut round: Vec<Blow> =
            victims.into_iter().map(|victim| self.blow(victim, Manner::Kill)).collect();
        if self.has_stops() {
            let victim = STOPPED[usize::from(self.rounds % 2 == 1)];
            round.push(Blow { down: Duration::ZERO, ..self.blow(victim, Manner::Stop) });
        }
        for last in (1..round.len()).rev() {
            let other = usize::try_from(self.chance.below(last as u64 + 1)).unwrap_or(0);
            round.swap(last, other);
        }
        self.round = round;
        self.rounds += 1;
    }

    fn blow(&mut self, victim: Victim, manner: Manner) -> Blow {
        let down = match victim {
            // Whoever runs one process starts it anew at once.
            Victim::Platform => Duration::ZERO,
            _ => Duration::from_millis(100 + self.chance.below(1_400)),
        };
        // Not the leader each time: those that only wait for the lease must be dispensable too.
        let victim = match victim {
            Victim::Leader if self.chance.below(4) == 0 => Victim::Workers,
            other => other,
        };
        Blow { victim, manner, pick: self.chance.bits(), down }
    }
}

impl Iterator for Plan {
    type Item = Blow;

    fn next(&mut self) -> Option<Blow> {
        if self.round.is_empty() {
            self.next_round();
        }
        self.round.pop()
    }
}

/// Strikes every so often, for so long, and longer where a slow machine has not struck every part once by then.
///
/// # Errors
/// Something ended by itself, did not stop in order, or cannot be started again.
pub async fn strike(
    stack: &mut Stack,
    plan: Plan,
    every: Duration,
    length: Duration,
    toll: &mut Toll,
) -> Result<()> {
    let start = Instant::now();
    let mut due = start + every;
    let round = plan.round_length();
    for (number, blow) in plan.enumerate() {
        if due > start + length && number >= round {
            break;
        }
        sleep_until(due).await;
        let struck = Instant::now();
        let name = stack.strike(&blow).await?;
        eprintln!("{}", line(&blow, name, struck.duration_since(start), struck.elapsed()));
        let counts = match blow.manner {
            Manner::Kill => &mut toll.kills,
            Manner::Stop => &mut toll.stops,
        };
        *counts.entry(name).or_default() += 1;
        // One that takes longer than the time between two is not followed by several at once.
        due = (due + every).max(Instant::now() + every / 4);
    }
    sleep((start + length).saturating_duration_since(Instant::now())).await;
    Ok(())
}

/// What was struck when, and how long it took until it was started again.
fn line(blow: &Blow, name: &str, at: Duration, took: Duration) -> String {
    let did = match blow.manner {
        Manner::Kill => "killed",
        Manner::Stop => "stopped",
    };
    format!("{:6.1} s: {did} {name}, started again {:.1} s later", at.as_secs_f64(), took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Victim; 4] = [Victim::Backend, Victim::Leader, Victim::Redis, Victim::Postgres];

    #[test]
    fn a_seed_repeats_a_plan_and_another_gives_another() {
        let plan = |seed| Plan::new(seed, ALL.to_vec()).take(40).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn everything_is_killed_in_each_round_and_something_stopped() {
        for seed in 0..20 {
            let plan = Plan::new(seed, ALL.to_vec());
            assert_eq!(plan.round_length(), 5);
            let blows: Vec<Blow> = plan.take(5).collect();
            let kills = |wanted: &[Victim]| {
                let struck = |blow: &&Blow| blow.manner == Manner::Kill && wanted.contains(&blow.victim);
                blows.iter().filter(struck).count()
            };
            assert_eq!(kills(&[Victim::Backend]), 1);
            assert_eq!(kills(&[Victim::Leader, Victim::Workers]), 1);
            assert_eq!((kills(&[Victim::Redis]), kills(&[Victim::Postgres])), (1, 1));
            assert_eq!(blows.iter().filter(|blow| blow.manner == Manner::Stop).count(), 1);
        }
    }

    #[test]
    fn one_process_is_only_killed_and_comes_back_at_once() {
        let mut plan = Plan::new(1, vec![Victim::Platform]);
        assert!(plan.all_are_kills(10));
    }

    impl Plan {
        fn all_are_kills(&mut self, count: usize) -> bool {
            self.take(count).all(|blow| blow.manner == Manner::Kill && blow.down.is_zero())
        }
    }
}
