//! `postmaster.pid`, by which a server says that it runs and whether it is ready.
//!
//! Owns telling a running server from a stale file: process ids are used again, most of all in
//! containers, where every run counts from one.

use std::path::{Path, PathBuf};

/// What a server wrote about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) ready: bool,
}

pub(crate) fn path(cluster: &Path) -> PathBuf {
    cluster.join("postmaster.pid")
}

/// The file's contents; `None` if there is none or it is still being written.
pub(crate) fn read(cluster: &Path) -> Option<PidFile> {
    parse(&std::fs::read_to_string(path(cluster)).ok()?)
}

/// Line 1 is the process id, line 8 the state (see the server's `pidfile.h`).
fn parse(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let ready = lines.nth(6).is_some_and(|state| state.trim() == "ready");
    Some(PidFile { pid, ready })
}

/// The server that runs in `cluster`, if one does.
pub(crate) fn running(cluster: &Path) -> Option<PidFile> {
    read(cluster).filter(|file| serves(file.pid, cluster))
}

/// Whether process `pid` is a server of this very directory.
#[cfg(target_os = "linux")]
fn serves(pid: i32, cluster: &Path) -> bool {
    // A server's working directory is its data directory; a zombie has none.
    let working = std::fs::read_link(format!("/proc/{pid}/cwd"));
    working.is_ok_and(|working| cluster.canonicalize().is_ok_and(|cluster| cluster == working))
}

/// Whether process `pid` is a server of this very directory.
#[cfg(not(target_os = "linux"))]
fn serves(pid: i32, cluster: &Path) -> bool {
    let shown = std::process::Command::new("ps").args(["-p", &pid.to_string(), "-o", "command="]).output();
    shown.is_ok_and(|shown| {
        let command = String::from_utf8_lossy(&shown.stdout);
        command.contains("postgres") && command.contains(&*cluster.to_string_lossy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_on_the_eighth_line() {
        let starting = "42\n/data\n1700000000\n5432\n\n127.0.0.1\n  5   6\nstarting\n";
        assert_eq!(parse(starting), Some(PidFile { pid: 42, ready: false }));
        let ready = starting.replace("starting", "ready   ");
        assert_eq!(parse(&ready), Some(PidFile { pid: 42, ready: true }));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn another_process_with_the_same_id_is_no_server() {
        let cluster = tempfile::tempdir().unwrap();
        std::fs::write(path(cluster.path()), format!("{}\n/data\n", std::process::id())).unwrap();
        assert!(read(cluster.path()).is_some());
        assert_eq!(running(cluster.path()), None);
    }
}
