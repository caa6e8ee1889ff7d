//! The machine: open files, which core does what, and a line about it for the report.

use std::fs;

use anyhow::{Result, bail};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::procfs;

/// Raises the soft limit of open files to the hard one and checks that `needed` fit.
///
/// # Errors
/// Too few even then, with the cure.
pub fn ensure_open_files(needed: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = maximum.unwrap_or(u64::MAX);
    if current.is_some_and(|soft| soft < allowed) {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    if allowed < needed {
        bail!(
            "{needed} open files are needed and {allowed} are allowed: raise the hard limit (`ulimit -Hn`, \
             or `nofile` in /etc/security/limits.conf), or take fewer --subscribers"
        );
    }
    Ok(())
}

/// Gives the servers a core of their own and the load generator the rest, for as long as it lives.
///
/// With one core, or where the kernel refuses, nothing is pinned and `is_pinned` says so.
#[derive(Debug)]
pub struct Placement {
    before: Option<CpuSet>,
}

impl Placement {
    /// Leaves everything where the kernel puts it.
    pub const fn shared() -> Self {
        Self { before: None }
    }

    /// Pins the servers' threads (also those that they will start) to one core, which they share, and this
    /// process to the others. The servers' child processes, databases among them, may run on any core.
    pub fn separate(servers: &[u32]) -> Self {
        match try_separate(servers) {
            Ok(before) => Self { before },
            Err(_) => Self { before: None },
        }
    }

    /// Whether the servers have their own core.
    pub const fn is_pinned(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // What cannot be undone here ends with the process.
            let _ = pin(std::process::id(), before);
        }
    }
}

fn try_separate(servers: &[u32]) -> Result<Option<CpuSet>> {
    let all = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    let [first, rest @ ..] = cores.as_slice() else { return Ok(None) };
    if rest.is_empty() {
        return Ok(None);
    }
    for server in servers {
        for child in procfs::descendants(*server) {
            pin(child, &all)?;
        }
        pin(*server, &set_of(&[*first]))?;
    }
    pin(std::process::id(), &set_of(rest))?;
    Ok(Some(all))
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    set
}

fn pin(process: u32, cores: &CpuSet) -> Result<()> {
    for thread in procfs::threads(process) {
        sched_setaffinity(i32::try_from(thread).ok().and_then(Pid::from_raw), cores)?;
    }
    Ok(())
}

/// Cores, processor and kernel, for the report.
pub fn description() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    // What else ran just before says how far to trust the numbers.
    format!("{cores} cores, {model}, Linux {}, load average {load} at the start", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_files_are_refused_with_the_cure() {
        assert!(ensure_open_files(1).is_ok());
        let hard = getrlimit(Resource::Nofile).maximum;
        if let Some(refused) = hard.and_then(|hard| hard.checked_add(1)) {
            assert!(ensure_open_files(refused).unwrap_err().to_string().contains("ulimit -Hn"));
        }
    }
}
