//! The workspace as cargo describes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Whether programs are built to be fast, or to be built fast.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// To be fast.
    Release,
    /// To be built fast.
    Debug,
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

    /// The command that builds programs. It selects the whole workspace, as every build of the tasks does: what is
    /// selected decides the features of what is shared, and each other selection would build that once more.
    pub fn build(&self, programs: &[&str], profile: Profile) -> Command {
        let mut cargo = self.cargo(&["build", "--workspace"]);
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        for program in programs {
            cargo.args(["--bin", program]);
        }
        cargo
    }

    /// The command that runs one test program of a package, as `cargo test` does; it has to be built with the rest.
    ///
    /// # Errors
    /// There is no such program, or it does not compile.
    pub fn test_program(&self, package: &str, target: &str) -> Result<Command> {
        let output = self
            .cargo(&["test", "--workspace", "--no-run", "--no-fail-fast", "--message-format=json"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo test")?;
        let package =
            self.packages.iter().find(|one| one.name == package).context("there is such a package")?;
        let built =
            output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let ours = |built: &Built| {
            built.manifest_path == package.manifest_path
                && built.target.name == target
                && built.target.kind.iter().any(|kind| kind == "test")
        };
        let program = built.filter(ours).find_map(|built| built.executable);
        let program =
            program.with_context(|| format!("{}: no test program {target} was built", package.name))?;
        let mut command = Command::new(program);
        command.current_dir(package.directory()).env("CARGO_MANIFEST_DIR", package.directory());
        Ok(command)
    }
}

/// What cargo says of something that it has built.
#[derive(Deserialize)]
struct Built {
    manifest_path: PathBuf,
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The cargo that runs us.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
