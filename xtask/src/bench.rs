//! `cargo xtask bench` and `cargo xtask drill`: what is measured, and what is killed.

use std::process::Command;

use anyhow::Result;

use crate::node::NodePackage;
use crate::step;
use crate::system::{self, Need};
use crate::workspace::{Profile, Workspace};

/// The servers that the platform is compared with.
const PEERS: &str = "bench/peers";
/// Drills what takes little time to build.
const DEBUG_BUILD: &str = "--debug-build";

/// Measures everything and writes the tables of docs/benchmarks.md: `bench all` with the given arguments.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    system::ensure(&[Need::Postgres, Need::Redis, Need::Node])?;
    if let Some(peers) = NodePackage::find(workspace, PEERS)? {
        peers.ensure_dependencies()?;
    }
    build(workspace, &["realtime", "backend", "bench"])?;
    let mut bench = program(workspace, "bench");
    bench.arg("all").args(arguments);
    if std::env::var_os("BENCH_BACKEND").is_none() {
        bench.env("BENCH_BACKEND", program(workspace, "backend").get_program());
    }
    let realtime = program(workspace, "realtime").get_program().to_string_lossy().into_owned();
    // What the environment says already wins.
    if std::env::var_os("BENCH_PLATFORM_COMMAND").is_none() {
        let command = format!("{realtime} dev --json --port {{port}} --data-dir {{data}}");
        bench.env("BENCH_PLATFORM_COMMAND", command);
    }
    step::must(bench)
}

/// Kills every part of the platform in turn and accounts for everything: `bench drill` with the given arguments,
/// on release builds unless these say `--debug-build`.
pub fn drill(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let (debug, rest): (Vec<String>, Vec<String>) =
        arguments.iter().cloned().partition(|argument| argument == DEBUG_BUILD);
    let profile = if debug.is_empty() { Profile::Release } else { Profile::Debug };
    step::must(drill_command(workspace, &rest, profile)?)
}

/// A minute of the drill on debug builds, both modes, at a pace that a busy machine of two cores keeps up with.
pub fn short_drill(workspace: &Workspace) -> Result<()> {
    let words = ["--seconds", "22", "--every", "4", "--rate", "20", "--no-fsync"];
    drill(workspace, &words.into_iter().chain([DEBUG_BUILD]).map(str::to_owned).collect::<Vec<_>>())
}

fn drill_command(workspace: &Workspace, arguments: &[String], profile: Profile) -> Result<Command> {
    system::ensure(&[Need::Postgres, Need::Redis])?;
    let single = arguments.iter().any(|argument| argument == "--single");
    let platform: &[&str] = if single { &["realtime"] } else { &["backend", "workers"] };
    build_as(workspace, &[platform, &["bench"]].concat(), profile)?;
    let mut drill = program_of(workspace, "bench", profile);
    drill.arg("drill");
    for name in platform {
        drill.arg(format!("--{name}")).arg(program_of(workspace, name, profile).get_program());
    }
    drill.args(arguments);
    Ok(drill)
}

fn build(workspace: &Workspace, programs: &[&str]) -> Result<()> {
    build_as(workspace, programs, Profile::Release)
}

fn build_as(workspace: &Workspace, programs: &[&str], profile: Profile) -> Result<()> {
    let name = match profile {
        Profile::Release => "build for release",
        Profile::Debug => "build",
    };
    step::named(name, || step::must(workspace.build(programs, profile)))
}

/// A program built for release, to run in the repository's directory.
fn program(workspace: &Workspace, name: &str) -> Command {
    program_of(workspace, name, Profile::Release)
}

fn program_of(workspace: &Workspace, name: &str, profile: Profile) -> Command {
    let directory = match profile {
        Profile::Release => "release",
        Profile::Debug => "debug",
    };
    let path = workspace.target_directory.join(directory).join(name);
    workspace.command(&path.to_string_lossy())
}
