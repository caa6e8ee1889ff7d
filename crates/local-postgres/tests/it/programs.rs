//! Programs that the tests start and kill: this very test program, told to run one of its tests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Set for a child: the directory of the server that it runs or joins.
const DIRECTORY: &str = "LOCAL_POSTGRES_TEST_DIRECTORY";

/// The directory that a child was given; `None` in the test run itself.
pub fn given_directory() -> Option<String> {
    std::env::var(DIRECTORY).ok()
}

/// Prints a line that [`Program::start`] returns, then waits to be killed.
pub fn report_and_wait(line: &str) -> ! {
    println!("\nreport: {line}");
    loop {
        std::thread::park();
    }
}

/// A running child; killed when dropped.
pub struct Program {
    child: Child,
    /// The line that it reported.
    pub report: String,
}

impl Program {
    /// Runs `test` of this program in a process of its own until it reports.
    pub fn start(test: &str, directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let report = lines
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("report: ").map(str::to_owned))
            .expect("the program reports before it ends");
        Self { child, report }
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
