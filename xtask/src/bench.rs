//! `cargo xtask bench` and `cargo xtask drill`: what is measured, and what is killed, on release builds.

use std::process::Command;

use anyhow::Result;

use crate::node::NodePackage;
use crate::step;
use crate::system::{self, Need};
use crate::workspace::Workspace;

/// The servers that the platform is compared with.
const PEERS: &str = "bench/peers";

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

/// Kills the platform again and again and accounts for every row: `bench drill` with the given arguments.
pub fn drill(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    system::ensure(&[Need::Postgres])?;
    let single = arguments.iter().any(|argument| argument == "--single");
    let platform: &[&str] = if single { &["realtime"] } else { &["backend", "workers"] };
    build(workspace, &[platform, &["bench"]].concat())?;
    let mut drill = program(workspace, "bench");
    drill.arg("drill");
    for name in platform {
        drill.arg(format!("--{name}")).arg(program(workspace, name).get_program());
    }
    drill.args(arguments);
    step::must(drill)
}

fn build(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let mut cargo = workspace.cargo(&["build", "--release"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    step::named("build for release", || step::must(cargo))
}

/// A program built for release, to run in the repository's directory.
fn program(workspace: &Workspace, name: &str) -> Command {
    let path = workspace.target_directory.join("release").join(name);
    workspace.command(&path.to_string_lossy())
}
