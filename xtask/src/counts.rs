//! How many tests passed and failed, read from what the runners print.

/// Counts of one or several runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed; at least 1 where a runner failed for another reason.
    pub failed: u64,
    /// Tests that did not run. The house has none: they count as a failure of the run.
    pub ignored: u64,
}

impl Counts {
    /// Reads the summaries of cargo, Vitest and Node.js out of a run's output.
    ///
    /// A run that failed without a failed test (it did not build, or was killed) counts as one.
    pub fn read(output: &str, success: bool) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            counts.add(&line_counts(line.trim()));
        }
        if !success && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`, `Tests  1 failed | 5 passed (6)`, `# pass 5`.
fn line_counts(line: &str) -> Counts {
    if let Some(rest) = line.strip_prefix("test result: ") {
        let rest = rest.split_once(". ").map_or(rest, |(_, rest)| rest);
        return words(rest.split(';'));
    }
    if let Some(rest) = line.strip_prefix("Tests  ") {
        return words(rest.split('|'));
    }
    let node = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ "));
    node.map(|rest| reversed(rest.split_whitespace().collect())).unwrap_or_default()
}

/// `3 passed`, `0 failed`, `2 skipped (8)`.
fn words<'a>(parts: impl Iterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::default();
    for part in parts {
        let mut words = part.split_whitespace();
        let number = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        tally(&mut counts, words.next().unwrap_or_default(), number);
    }
    counts
}

/// `pass 5`, `fail 0`, and nothing else: other lines of comments look alike.
fn reversed(words: Vec<&str>) -> Counts {
    let mut counts = Counts::default();
    if let [word, number] = words[..] {
        tally(&mut counts, word, number.parse().unwrap_or(0));
    }
    counts
}

fn tally(counts: &mut Counts, word: &str, number: u64) {
    match word {
        "passed" | "pass" => counts.passed += number,
        "failed" | "fail" | "cancelled" => counts.failed += number,
        "ignored" | "skipped" | "todo" => counts.ignored += number,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, ignored: u64) -> Counts {
        Counts { passed, failed, ignored }
    }

    #[test]
    fn every_runner_s_summary_is_read() {
        let cargo = "test a ... ok\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.1s\n\
                     test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        assert_eq!(Counts::read(cargo, false), counts(4, 2, 1));
        let vitest =
            " Test Files  1 failed | 2 passed (3)\n      Tests  1 failed | 5 passed | 2 skipped (8)\n";
        assert_eq!(Counts::read(vitest, false), counts(5, 1, 2));
        let node = "# tests 6\n# suites 1\n# pass 5\n# fail 1\n# cancelled 0\n# skipped 0\n# todo 0\n";
        assert_eq!(Counts::read(node, false), counts(5, 1, 0));
        assert_eq!(Counts::read("ℹ pass 2\nℹ fail 0\n", true), counts(2, 0, 0));
    }

    #[test]
    fn a_run_that_failed_otherwise_counts_as_a_failure() {
        assert_eq!(Counts::read("error: could not compile\n", false), counts(0, 1, 0));
        assert_eq!(Counts::read("test result: ok. 3 passed; 0 failed; 0 ignored\n", false), counts(3, 1, 0));
    }
}
