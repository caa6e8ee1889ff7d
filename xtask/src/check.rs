//! `cargo xtask check`: everything that can be said about the sources without running them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::node::NodePackage;
use crate::system::{self, Need};
use crate::workspace::Workspace;
use crate::{graph, openapi, step, unused};

/// A file longer than this should be split.
const LONG_FILE_LINES: usize = 600;

/// Runs all checks, shows all problems, and fails if there was one.
pub fn run(workspace: &Workspace) -> Result<()> {
    system::ensure(&[Need::Node])?;
    let mut report = Report::default();
    let cargo = |arguments: &[&str]| step::must(workspace.cargo(arguments));
    report.check("rustfmt", || cargo(&["fmt", "--all", "--check"]));
    report.check("crate graph", || graph::check(workspace));
    report.check("unused dependencies", || unused::check(workspace));
    report.check("file sizes", || file_sizes(workspace));
    if let Some(sdk) = NodePackage::find(workspace, "sdk")? {
        // The backend embeds it, and other packages are checked against its declarations.
        report.check("sdk: build", || sdk.ensure_built());
    }
    report.check("clippy", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"])
    });
    report.check("documentation", || {
        let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps", "--keep-going"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        step::must(doc)
    });
    report.check("generated files: configuration", || {
        cargo(&["run", "--quiet", "-p", "shared-config", "--example", "generate", "--", "--check"])
    });
    report.check("generated files: openapi", || openapi::check(workspace));
    for package in NodePackage::all(workspace)? {
        report.check(&format!("{}: dependencies", package.name), || package.ensure_dependencies());
        for script in ["typecheck", "lint"].into_iter().filter(|script| package.has_script(script)) {
            report
                .check(&format!("{}: {script}", package.name), || step::must(package.npm(&["run", script])));
        }
    }
    report.finish()
}

/// What was checked, how it went and how long it took.
#[derive(Default)]
struct Report {
    checks: Vec<(String, Duration, Option<String>)>,
}

impl Report {
    fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let start = Instant::now();
        let problem = step::named(name, work).err().map(|error| format!("{error:#}"));
        if let Some(problem) = &problem {
            eprintln!("{problem}");
        }
        self.checks.push((name.to_owned(), start.elapsed(), problem));
    }

    /// The summary; fails if a check failed.
    fn finish(self) -> Result<()> {
        println!();
        for (name, took, problem) in &self.checks {
            let word = if problem.is_none() { "ok" } else { "FAILED" };
            println!("{word:<8}{:>8}  {name}", step::seconds(*took));
        }
        let failed: Vec<&str> = self
            .checks
            .iter()
            .filter(|(_, _, problem)| problem.is_some())
            .map(|(name, _, _)| &**name)
            .collect();
        ensure!(
            failed.is_empty(),
            "{} of {} checks failed: {}",
            failed.len(),
            self.checks.len(),
            failed.join(", ")
        );
        Ok(())
    }
}

/// Warns of long source files; only a repository that cannot be listed is an error.
fn file_sizes(workspace: &Workspace) -> Result<()> {
    let listed = workspace
        .command("git")
        .args(["ls-files", "*.rs", "*.ts", "*.tsx"])
        .output()
        .context("cannot run git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    }
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let lines = std::fs::read_to_string(workspace.path(name)).map_or(0, |text| text.lines().count());
        if lines > LONG_FILE_LINES {
            eprintln!("warning: {name} has {lines} lines; split files over {LONG_FILE_LINES}");
        }
    }
    Ok(())
}
