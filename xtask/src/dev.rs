//! `cargo xtask dev`: from a clone to a running platform.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::node::NodePackage;
use crate::step;
use crate::system::{self, Need};
use crate::workspace::{Profile, Workspace};

/// Builds what is missing or stale and becomes `realtime dev`.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    system::ensure(&[Need::Postgres, Need::Node])?;
    for name in ["sdk", "admin-ui"] {
        if let Some(package) = NodePackage::find(workspace, name)? {
            package.ensure_built()?;
        }
    }
    // Cargo shows its own progress, on the terminal itself.
    let status = workspace.build(&["realtime"], Profile::Debug).status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "the build failed");
    let program = workspace.target_directory.join("debug/realtime");
    let error = workspace.command(&program.to_string_lossy()).arg("dev").args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// Builds the programs that other tasks run.
pub fn build_programs(workspace: &Workspace) -> Result<()> {
    step::named("build the programs", || {
        step::must(workspace.build(&["realtime", "backend", "workers"], Profile::Debug))
    })
}
