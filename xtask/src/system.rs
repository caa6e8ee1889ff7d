//! What the machine has to have: Postgres, Redis, Node.js, a browser.
//!
//! As root on a system with apt what is missing is installed; else the exact command is said.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::step;

/// A thing that tasks need and a package that brings it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The server's programs, for private databases.
    Postgres,
    /// The Redis server.
    Redis,
    /// Node.js with npm.
    Node,
    /// A Chromium browser, for the end-to-end tests.
    Browser,
    /// Python's installer of packages.
    Pip,
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Postgres => has_postgres(),
            Self::Redis => in_path("redis-server"),
            Self::Node => in_path("node") && in_path("npm"),
            Self::Browser => ["chromium", "chromium-browser", "google-chrome"].into_iter().any(in_path),
            Self::Pip => has_pip(),
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &["postgresql"],
            Self::Redis => &["redis-server"],
            Self::Node => &["nodejs", "npm"],
            Self::Browser => &["chromium"],
            Self::Pip => &["python3-pip"],
        }
    }
}

/// Makes sure that everything needed is there.
///
/// # Errors
///
/// Something is missing and we may not install it: the error says the command that does.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let packages: Vec<&str> =
        needs.iter().filter(|need| !need.is_met()).flat_map(|need| need.packages()).copied().collect();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !in_path("apt-get") {
        bail!("missing on this machine: {list}; install them with the system's package manager");
    }
    if !is_root() {
        bail!("missing on this machine: {list}; run: sudo apt-get update && sudo apt-get install -y {list}");
    }
    step::named(&format!("install {list}"), || install(&packages))
}

fn install(packages: &[&str]) -> Result<()> {
    keep_from_starting()?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    step::must(apt(&["update"]))?;
    let mut install =
        apt(&["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]);
    install.args(packages);
    step::must(install)
}

/// Debian's packages start servers of their own, on the well-known ports. We need only the programs: a
/// new Postgres installation makes no cluster.
fn keep_from_starting() -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if !file.exists() {
        std::fs::create_dir_all("/etc/postgresql-common")?;
        std::fs::write(file, "create_main_cluster = false\n")?;
    }
    Ok(())
}

fn has_pip() -> bool {
    Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn has_postgres() -> bool {
    if let Some(chosen) = std::env::var_os("REALTIME_PG_BIN") {
        return Path::new(&chosen).join("initdb").is_file();
    }
    in_path("initdb") || versions().iter().any(|version| version.join("bin/initdb").is_file())
}

/// Directories of installed versions. The launcher in the platform knows more places; where only those
/// have a server, `REALTIME_PG_BIN` says so.
fn versions() -> Vec<PathBuf> {
    let parents = [
        "/usr/lib/postgresql",
        "/opt/homebrew/opt",
        "/usr/local/opt",
        "/Applications/Postgres.app/Contents/Versions",
    ];
    parents
        .iter()
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flat_map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()))
        .collect()
}

/// Whether a program is in the search path.
pub fn in_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
