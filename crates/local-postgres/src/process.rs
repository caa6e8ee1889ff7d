//! The server as a process: starting it so that it cannot outlive us, signals, its end.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::sync::{oneshot, watch};

use crate::error::{Doing, LocalPostgresError};
use crate::identity::User;

/// A command for one of the server's programs, away from our environment and terminal.
pub(crate) fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    // A locale that the machine does not have would keep the server from starting.
    command.env("LC_ALL", "C").env_remove("LANG").env_remove("LANGUAGE");
    command.stdin(Stdio::null()).current_dir("/");
    // Ctrl-C reaches the whole foreground group; when the server stops is ours to say.
    command.process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// The command that runs a server over `cluster`, its output appended to `log`.
pub(crate) fn server_command(
    bin: &Path,
    cluster: &Path,
    log: &File,
    user: Option<User>,
) -> Result<Command, LocalPostgresError> {
    let duplicate = || log.try_clone().doing(|| "open the server's log twice".to_owned());
    let mut command = command(&bin.join("postgres"), user);
    command.arg("-D").arg(cluster).stdout(duplicate()?).stderr(duplicate()?);
    Ok(command)
}

/// Has the kernel send `signal` to the command's process when the thread that spawns it ends, and so at
/// the latest when this process dies, however it dies.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn end_with_parent(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes two
    // plain system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            // The parent may have died before the call above: then nobody would send the signal.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(rustix::io::Errno::SRCH.into())
            }
        });
    }
}

/// Elsewhere a leftover server is ended by the next start.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_command: &mut Command, _signal: Signal) {}

/// A running server that ends when this is dropped, and when this process ends.
pub(crate) struct OwnedProcess {
    pid: i32,
    on_death: Signal,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl OwnedProcess {
    /// Starts `command` on a thread of its own, which then waits for the end: the kernel binds the child
    /// to the *thread* that started it, and a runtime's threads come and go.
    pub(crate) async fn spawn(mut command: Command, on_death: Signal) -> Result<Self, LocalPostgresError> {
        let (started, start) = oneshot::channel();
        let (tell, ended) = watch::channel(None);
        end_with_parent(&mut command, on_death);
        let wait = move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(child.id()));
            // Waiting for our own child fails only if it was already waited for, which nobody else does.
            if let Ok(status) = child.wait() {
                let _ = tell.send(Some(status));
            }
        };
        std::thread::Builder::new()
            .name("local-postgres".to_owned())
            .spawn(wait)
            .doing(|| "start a thread".to_owned())?;
        let pid = start
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the starting thread ended")))
            .doing(|| "start postgres".to_owned())?;
        Ok(Self { pid: i32::try_from(pid).expect("process ids are positive i32"), on_death, ended })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits for the end, at most `limit`; whether it came. Cancelling changes nothing.
    pub(crate) async fn wait_for_end(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.ended.wait_for(Option::is_some)).await.is_ok()
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if !self.has_ended() {
            send(self.pid, signal);
        }
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        self.signal(self.on_death);
    }
}

/// Sends `signal` to `pid`; one that is gone needs none.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether `pid` is a process that still runs: a zombie does not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Some(id) = Pid::from_raw(pid) else { return false };
    if cfg!(target_os = "linux") {
        return std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            // The command's name is in parentheses and may hold anything; the state follows the last one.
            stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
        });
    }
    test_kill_process(id).is_ok()
}

/// The processes that `parent` has started and that still run.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let Ok(shown) = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output() else {
        return from_proc(parent);
    };
    String::from_utf8_lossy(&shown.stdout)
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<i32>);
            let (pid, of) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (of == parent).then_some(pid)
        })
        .collect()
}

/// The same from `/proc`, for machines without `ps`.
fn from_proc(parent: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                let after_name = stat.rsplit(") ").next().unwrap_or_default();
                after_name.split(' ').nth(1) == Some(&parent.to_string())
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_both_ways() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (me, pid) = (std::process::id() as i32, child.id() as i32);
        assert!(children(me).contains(&pid));
        if cfg!(target_os = "linux") {
            assert!(from_proc(me).contains(&pid));
        }
        assert!(is_alive(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}
