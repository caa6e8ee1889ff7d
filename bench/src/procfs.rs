//! What Linux says about a process: CPU time, resident memory, descendants, threads.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// `utime` and `stime` are in these ticks; fixed by the kernel's interface (USER_HZ) on every
/// architecture that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process with all its threads, those that ended included.
///
/// # Errors
/// The process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| gone(pid))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat is malformed"))?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The sum over several processes; one that is gone counts nothing.
pub fn cpu_time_of_all(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| cpu_time(*pid).ok()).sum()
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// The process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| gone(pid))?;
    resident_in(&status).with_context(|| format!("/proc/{pid}/status has no VmRSS"))
}

/// All processes that descend from this one, itself not included.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = children.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found
}

/// The thread ids of a process.
pub fn threads(pid: u32) -> Vec<u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Waits until a process has ended, at most so long. Blocks: for `Drop`.
pub fn wait_until_gone(pid: u32, limit: Duration) {
    let until = Instant::now() + limit;
    let runs = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
    while runs() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn gone(pid: u32) -> String {
    format!("the server process {pid} is gone")
}

/// The fields after the command's name, which may itself hold spaces and parentheses.
fn fields(stat: &str) -> Option<Vec<&str>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect())
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // Fields 14 and 15 of proc(5); the state, field 3, is the first here.
    let fields = fields(stat)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn parent_in(stat: &str) -> Option<u32> {
    fields(stat)?.get(1)?.parse().ok()
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4242 (a (very) odd name) S 17 4242 4242 0 -1 4194304 900 0 0 0 151 49 3 4 20 0 2 0 5 6 7";

    #[test]
    fn reads_stat_whatever_the_name() {
        assert_eq!(cpu_ticks(STAT), Some(200));
        assert_eq!(parent_in(STAT), Some(17));
        assert_eq!(cpu_ticks("4242 (short) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn reads_status() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t   12345 kB\nThreads:\t2\n"), Some(12_345));
        assert_eq!(resident_in("Name:\tkthread\n"), None);
    }

    #[test]
    fn knows_itself() {
        let me = std::process::id();
        assert!(resident_kib(me).unwrap() > 100);
        assert!(cpu_time(me).is_ok());
        assert!(threads(me).contains(&me));
        assert!(cpu_time(u32::MAX).is_err());
    }
}
