//! Leaving no process behind.
//!
//! Every program that a task starts leads a process group of its own. When it has ended, or when we are
//! told to end, what is left of the group is ended too.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The leaders' process ids of the groups in care; `None` once we are told to end.
static GROUPS: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

/// How long a group may take to end in order.
const GRACE: Duration = Duration::from_secs(10);

/// Ends all groups and then us on Ctrl-C, hang-up and termination.
pub fn end_on_signals() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            end_all();
            std::process::exit(128 + signal);
        }
    });
}

/// Starts a program as the leader of a group in care.
///
/// Once we are told to end nothing is started any more: the caller waits for the end.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut groups = groups();
    let Some(leaders) = groups.as_mut() else {
        drop(groups);
        loop {
            std::thread::park();
        }
    };
    let child = command.process_group(0).spawn()?;
    leaders.insert(child.id());
    Ok(child)
}

/// Ends what is left of a group whose leader has ended.
pub fn end(leader: u32) {
    if let Some(leaders) = groups().as_mut() {
        leaders.remove(&leader);
    }
    end_group(leader);
}

/// Ends every group that is still in care, for good.
pub fn end_all() {
    let all = groups().take();
    all.into_iter().flatten().for_each(end_group);
}

fn groups() -> std::sync::MutexGuard<'static, Option<BTreeSet<u32>>> {
    GROUPS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn end_group(leader: u32) {
    if !signal(leader, "-TERM") {
        return;
    }
    let deadline = Instant::now() + GRACE;
    while signal(leader, "-0") {
        if Instant::now() >= deadline {
            signal(leader, "-KILL");
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends a signal to a group; whether there is one.
fn signal(leader: u32, signal: &str) -> bool {
    Command::new("kill")
        .args([signal, "--", &format!("-{leader}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
