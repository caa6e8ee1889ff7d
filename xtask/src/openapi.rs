//! `docs/openapi.json`: what the server says of itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::dev;
use crate::workspace::Workspace;

const FILE: &str = "docs/openapi.json";

/// Writes the file.
pub fn run(workspace: &Workspace) -> Result<()> {
    std::fs::write(workspace.path(FILE), description(workspace)?)
        .context("cannot write docs/openapi.json")?;
    println!("wrote {FILE}");
    Ok(())
}

/// Fails if the committed file is not what the server says.
pub fn check(workspace: &Workspace) -> Result<()> {
    let committed = std::fs::read(workspace.path(FILE)).unwrap_or_default();
    ensure!(committed == description(workspace)?, "{FILE} is stale: run `cargo xtask openapi`");
    Ok(())
}

fn description(workspace: &Workspace) -> Result<Vec<u8>> {
    dev::build_programs(workspace)?;
    let program = workspace.target_directory.join("debug/realtime");
    let output = Command::new(&program)
        .arg("openapi")
        .current_dir(workspace.root())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "realtime openapi: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).context("realtime openapi prints no JSON")?;
    Ok(output.stdout)
}
