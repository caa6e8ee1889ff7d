//! Leaving no process behind.
//!
//! Every program that a task starts leads a process group of its own. When it has ended, or when we are
//! told to end, what is left of the group is ended too.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static GROUPS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

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

/// Takes a group into care, by its leader's process id.
pub fn register(leader: u32) {
    groups().insert(leader);
}

/// Ends what is left of a group whose leader has ended.
pub fn end(leader: u32) {
    groups().remove(&leader);
    end_group(leader);
}

/// Ends every group that is still in care.
pub fn end_all() {
    let all = std::mem::take(&mut *groups());
    all.into_iter().for_each(end_group);
}

fn groups() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
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
