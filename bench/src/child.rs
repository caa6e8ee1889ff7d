//! Child processes that end with this one: on success, on an error, on Ctrl-C and on a panic.
//!
//! Each child leads a process group of its own, so that Ctrl-C reaches only the load generator, which
//! then ends its children in order. Where util-linux's `setpriv` is there, even `kill -9` of the load
//! generator leaves none of them behind: the kernel asks them to end when their parent does.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::procfs;

/// A command whose process is asked to end when this one has ended, however that came.
///
/// `setpriv` replaces itself by the program, so that the process id is the program's. Without it, children
/// still end with this process unless it is killed outright.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(setpriv) =
        std::env::split_paths(&paths).map(|path| path.join("setpriv")).find(|path| path.is_file())
    else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A running child. Dropping it ends it and everything that it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    grace: Duration,
    errors: Errors,
    directory: Option<tempfile::TempDir>,
}

/// Where a child's standard error goes.
#[derive(Debug)]
enum Errors {
    /// To a file that ends with it.
    Own(tempfile::NamedTempFile),
    /// To the end of a log that outlives it.
    Log(PathBuf),
}

impl Errors {
    fn path(&self) -> &Path {
        match self {
            Self::Own(file) => file.path(),
            Self::Log(path) => path,
        }
    }

    fn open(&self) -> std::io::Result<File> {
        match self {
            Self::Own(file) => file.reopen(),
            Self::Log(path) => File::options().create(true).append(true).open(path),
        }
    }
}

impl Process {
    /// Ties a directory to the child: it is removed once the child has ended.
    #[must_use]
    pub fn with_directory(mut self, directory: tempfile::TempDir) -> Self {
        self.directory = Some(directory);
        self
    }

    /// Starts the command. With a grace it is asked to end (SIGTERM) and killed only after that long.
    ///
    /// # Errors
    /// The program is not there, or could not be started.
    pub fn start(name: &str, command: Command, grace: Duration) -> Result<Self> {
        let errors = tempfile::NamedTempFile::new().context("a temporary file for a child's messages")?;
        Self::start_into(name, command, grace, Errors::Own(errors))
    }

    /// The same; what it writes to standard error goes to the end of a file that is kept.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_with_log(name: &str, command: Command, grace: Duration, log: PathBuf) -> Result<Self> {
        Self::start_into(name, command, grace, Errors::Log(log))
    }

    fn start_into(name: &str, mut command: Command, grace: Duration, errors: Errors) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.open()?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}: is it installed?"))?;
        let pid = child.id().context("a child that was just started has an id")?;
        Ok(Self { name: name.to_owned(), child, pid, grace, errors, directory: None })
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the first line of standard output that is a JSON object. Later output is discarded.
    ///
    /// # Errors
    /// It ended or said nothing within `limit`; with the end of what it wrote to standard error.
    pub async fn ready_line(&mut self, limit: Duration) -> Result<Value> {
        let output = self.child.stdout.take().context("the ready line is read once")?;
        let mut lines = BufReader::new(output).lines();
        let found = match timeout(limit, first_object(&mut lines)).await {
            Ok(found) => found.map_err(|error| self.complaint(&error.to_string()))?,
            Err(_) => return Err(self.complaint(&format!("was not ready after {} s", limit.as_secs()))),
        };
        discard(lines);
        Ok(found)
    }

    /// Reads standard output to nowhere, for a child that says on it nothing of interest.
    pub fn discard_output(&mut self) {
        if let Some(output) = self.child.stdout.take() {
            discard(BufReader::new(output).lines());
        }
    }

    /// Kills it and what it started in its group, at once; does not wait for the end.
    pub fn kill(&self) {
        if let Some(group) = as_pid(self.pid) {
            // An error means that nothing is left of the group.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Asks it to end (SIGTERM); does not wait for the end.
    pub fn terminate(&self) {
        signal(self.pid, Signal::TERM);
    }

    /// Stops it where it stands (SIGSTOP), with what it started; it answers nothing any more.
    pub fn freeze(&self) {
        if let Some(group) = as_pid(self.pid) {
            // An error means that nothing is left of the group.
            let _ = kill_process_group(group, Signal::STOP);
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub async fn ended(mut self, limit: Duration) -> Result<ExitStatus> {
        let Ok(ended) = timeout(limit, self.child.wait()).await else {
            return Err(self.complaint(&format!("still runs after {} s", limit.as_secs())));
        };
        Ok(ended?)
    }

    /// Waits until it has ended by itself, and answers what it wrote to standard output.
    ///
    /// # Errors
    /// It fails, or still runs after `limit`.
    pub async fn output(mut self, limit: Duration) -> Result<String> {
        let mut output = self.child.stdout.take().context("standard output is read once")?;
        let mut text = String::new();
        let read = async {
            output.read_to_string(&mut text).await?;
            self.child.wait().await
        };
        match timeout(limit, read).await {
            Ok(Ok(status)) if status.success() => Ok(text),
            Ok(Ok(status)) => Err(self.complaint(&format!("failed: {status}"))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(self.complaint(&format!("still runs after {} s", limit.as_secs()))),
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// An error about this child, with the end of what it wrote to standard error.
    pub fn complaint(&self, what: &str) -> anyhow::Error {
        let written = std::fs::read_to_string(self.errors.path()).unwrap_or_default();
        let lines: Vec<&str> = written.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        anyhow!("{} {what}\n{tail}", self.name)
    }

    fn wait_blocking(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while self.is_alive() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let descendants = procfs::descendants(self.pid);
        if self.is_alive() {
            if !self.grace.is_zero() {
                signal(self.pid, Signal::TERM);
                self.wait_blocking(self.grace);
            }
            self.kill();
            self.wait_blocking(Duration::from_secs(2));
        }
        // Daemons that left the group. Their parent is gone, so an id cannot have been given out anew
        // to one of ours in this short time.
        descendants.into_iter().for_each(|pid| signal(pid, Signal::KILL));
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = as_pid(pid) {
        // An error means that it is gone already.
        let _ = kill_process(pid, signal);
    }
}

/// A pipe that nobody reads would stop the child once it is full. Ends with the child.
fn discard(mut lines: Lines<BufReader<ChildStdout>>) {
    tokio::task::spawn_local(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}

async fn first_object(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<Value> {
    while let Some(line) = lines.next_line().await? {
        if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
            return Ok(value);
        }
    }
    bail!("ended before it was ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("sh");
        command.args(["-c", script]);
        command
    }

    fn runs(pid: u32) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z")
    }

    #[tokio::test]
    async fn the_ready_line_is_found_and_dropping_ends_the_grandchildren() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let script = "echo starting; sleep 600 & echo \"{\\\"grandchild\\\":$!}\"; wait";
                let mut process = Process::start("a shell", shell(script), Duration::ZERO).unwrap();
                let ready = process.ready_line(Duration::from_secs(10)).await.unwrap();
                let grandchild = u32::try_from(ready["grandchild"].as_u64().unwrap()).unwrap();
                assert!(procfs::descendants(process.pid()).contains(&grandchild));
                drop(process);
                // The signal is sent at once; the kernel ends it when it next runs.
                let gone = async {
                    while runs(grandchild) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                timeout(Duration::from_secs(10), gone).await.expect("the grandchild ends");
            })
            .await;
    }

    #[tokio::test]
    async fn one_that_is_killed_ends() {
        let mut process = Process::start("a shell", shell("sleep 600 & wait"), Duration::ZERO).unwrap();
        assert!(process.is_alive());
        process.kill();
        process.ended(Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn a_log_is_kept_and_an_end_in_order_is_told_from_another() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        for status in [0, 3] {
            let script =
                format!("trap 'exit {status}' TERM; echo ready {status} >&2; while :; do sleep 0.01; done");
            let process =
                Process::start_with_log("a shell", shell(&script), Duration::ZERO, log.clone()).unwrap();
            let ready = async {
                while !std::fs::read_to_string(&log).unwrap_or_default().contains(&format!("ready {status}"))
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), ready).await.expect("the shell starts");
            process.terminate();
            assert_eq!(process.ended(Duration::from_secs(10)).await.unwrap().code(), Some(status));
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 2, "both runs are in it");
    }

    #[tokio::test]
    async fn output_is_read_to_its_end() {
        let process = Process::start("a shell", shell("echo one; echo two"), Duration::ZERO).unwrap();
        assert_eq!(process.output(Duration::from_secs(10)).await.unwrap(), "one\ntwo\n");
        let process = Process::start("a shell", shell("echo one; exit 3"), Duration::ZERO).unwrap();
        assert!(process.output(Duration::from_secs(10)).await.is_err());
    }

    #[tokio::test]
    async fn one_that_fails_says_why() {
        let mut process =
            Process::start("a shell", shell("echo no such thing >&2; exit 3"), Duration::ZERO).unwrap();
        let error = process.ready_line(Duration::from_secs(10)).await.unwrap_err().to_string();
        assert!(error.contains("ended before it was ready") && error.contains("no such thing"), "{error}");
    }
}
