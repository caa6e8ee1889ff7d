//! The workspace as cargo describes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The parts of `cargo metadata` that the tasks use.
#[derive(Deserialize)]
pub struct Workspace {
    /// The members, in no particular order.
    pub packages: Vec<Package>,
    /// Where cargo builds.
    pub target_directory: PathBuf,
    #[serde(rename = "workspace_root")]
    root: PathBuf,
}

/// A member of the workspace.
#[derive(Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What its manifest declares.
    pub dependencies: Vec<Dependency>,
    manifest_path: PathBuf,
}

/// A dependency as declared.
#[derive(Deserialize)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// The name that the sources use, where it is another.
    pub rename: Option<String>,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub kind: Option<String>,
    /// Where it is, if it is not from a registry.
    pub path: Option<PathBuf>,
}

impl Dependency {
    /// Whether it is there for tests, benches and examples only.
    pub fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

impl Package {
    /// The directory of its manifest.
    pub fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

impl Workspace {
    /// Asks cargo.
    pub fn open() -> Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--no-deps"])
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata says")
    }

    /// The repository's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or directory of the repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A command that runs in the repository's directory.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// `cargo` with arguments, in the repository's directory.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo();
        command.args(arguments).current_dir(&self.root);
        command
    }
}

/// The cargo that runs us.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
