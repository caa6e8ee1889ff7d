//! The real program: `realtime dev` with its own PostgreSQL, and the commands against it.

#![allow(clippy::unwrap_used)]

mod clients;
mod dev;
mod tail;
mod usage;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, in `folder`, with nothing of this process's configuration.
pub fn realtime(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_realtime"));
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command.env_clear().envs(
        std::env::vars()
            .filter(|(name, _)| ["PATH", "HOME", "REALTIME_PG_BIN", "TMPDIR"].contains(&name.as_str())),
    );
    command
}

/// Runs a command to its end.
pub async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = realtime(folder).args(arguments).output();
    timeout(PATIENCE, output).await.expect("the command ends").unwrap()
}

/// Standard output of a command that works.
pub async fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A folder that the database server's user may enter too.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running `realtime dev`.
pub struct Dev {
    /// The line that it printed.
    pub ready: Value,
    child: Child,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Dev {
    /// Starts one and waits until it says that it is ready.
    pub async fn start(folder: &Path, port: u16) -> Self {
        let mut command = realtime(folder);
        command.args(["dev", "--json", "--port", &port.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = next_line(&mut stdout).await.expect("realtime dev says that it is ready");
        Self { ready: serde_json::from_str(&line).unwrap(), child, _stdout: stdout }
    }

    /// A member of that line.
    pub fn text(&self, member: &str) -> &str {
        self.ready[member].as_str().unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; its exit code, or none where it was killed.
    pub async fn end(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }

    /// Ends it by Ctrl-C.
    pub async fn stop(self) {
        self.signal("INT");
        assert_eq!(self.end().await, Some(0));
    }

    /// A connection to the database whose changes are followed.
    pub async fn shop(&self) -> PgConnection {
        PgConnection::connect(self.text("targetUrl")).await.unwrap()
    }
}

/// The next line of an output, or none at its end.
pub async fn next_line<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> Option<String> {
    timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap()
}

/// A program that prints events, past the line in which it says that it follows.
pub struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    /// Starts `command` and waits for a line on standard error (or output, where `announced_on_output`) that contains
    /// `announcement`.
    pub async fn start(mut command: Command, announcement: &str, announced_on_output: bool) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        loop {
            let next =
                if announced_on_output { next_line(&mut lines).await } else { next_line(&mut errors).await };
            if next.expect("it follows").contains(announcement) {
                break;
            }
        }
        // Nobody else reads it, and a full pipe would stop the program.
        tokio::spawn(async move { while let Ok(Some(_)) = errors.next_line().await {} });
        Self { child, lines }
    }

    /// `realtime tail`.
    pub async fn tail(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = realtime(folder);
        command.arg("tail").args(arguments);
        Self::start(command, "following", false).await
    }

    /// Waits for a line that contains `text`.
    pub async fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = next_line(&mut self.lines).await.expect("more output");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end; its exit code.
    pub async fn end(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }
}

/// Runs statements.
pub async fn execute(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// The main process of the private server in `folder`.
pub fn postgres_pid(folder: &Path) -> i32 {
    let file: PathBuf = folder.join(".realtime/postgres/cluster/postmaster.pid");
    let text = std::fs::read_to_string(&file).unwrap();
    text.lines().next().unwrap().trim().parse().unwrap()
}

/// Whether the process runs.
pub fn is_alive(pid: i32) -> bool {
    let path = format!("/proc/{pid}/stat");
    // A zombie has ended; only its parent has not looked yet.
    std::fs::read_to_string(path).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until `holds`.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
