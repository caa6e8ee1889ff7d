//! Running one program of a task: named, timed, its output shown and, where wanted, read.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::groups;

/// What a program did.
pub struct Outcome {
    /// Whether it said that all is well.
    pub success: bool,
    /// Its standard output and error, each in its own order.
    pub output: String,
}

/// Runs a program whose output is shown as it comes and also returned.
pub fn run(mut command: Command) -> Result<Outcome> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = groups::spawn(&mut command).with_context(|| format!("cannot run {program}"))?;
    let out = child.stdout.take().map(|stream| show(stream, std::io::stdout()));
    let err = child.stderr.take().map(|stream| show(stream, std::io::stderr()));
    let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
    // First the rest of the group: a straggler would keep the streams open.
    groups::end(child.id());
    let output = [out, err].into_iter().flatten().filter_map(|shown| shown.join().ok()).collect();
    Ok(Outcome { success: status.success(), output })
}

/// Copies a stream on a thread of its own, line by line; the thread's result is the whole.
fn show(
    stream: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut all = String::new();
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // A closed terminal is no reason to stop counting.
            let _ = writeln!(to, "{line}");
            all.push_str(&line);
            all.push('\n');
        }
        all
    })
}

/// Runs a program that has to succeed.
pub fn must(command: Command) -> Result<()> {
    let shown = format!("{command:?}");
    ensure!(run(command)?.success, "failed: {shown}");
    Ok(())
}

/// Runs `work` under a heading and says how long it took.
pub fn named<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let start = Instant::now();
    let result = work();
    let word = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("<== {name}: {word} in {}", seconds(start.elapsed()));
    result
}

/// A duration for people.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
