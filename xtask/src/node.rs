//! The TypeScript packages: dependencies and builds, repeated only when something changed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::step;
use crate::workspace::Workspace;

/// The packages that may be there, each before those that use it.
pub const PACKAGES: [&str; 3] = ["sdk", "admin-ui", "e2e"];

/// A TypeScript package of the repository.
pub struct NodePackage {
    /// Its directory's name.
    pub name: &'static str,
    directory: PathBuf,
    stamp: PathBuf,
    scripts: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    scripts: BTreeMap<String, String>,
}

impl NodePackage {
    /// The package in `name`, if the repository has it.
    pub fn find(workspace: &Workspace, name: &'static str) -> Result<Option<Self>> {
        let directory = workspace.path(name);
        let manifest = directory.join("package.json");
        if !manifest.is_file() {
            return Ok(None);
        }
        let text = std::fs::read(&manifest)?;
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| format!("{name}/package.json is not readable"))?;
        let stamp = workspace.target_directory.join("xtask").join(format!("{name}.stamp"));
        Ok(Some(Self { name, directory, stamp, scripts: manifest.scripts }))
    }

    /// All packages that the repository has.
    pub fn all(workspace: &Workspace) -> Result<Vec<Self>> {
        PACKAGES.into_iter().filter_map(|name| Self::find(workspace, name).transpose()).collect()
    }

    /// Whether package.json has a script of that name.
    pub fn has_script(&self, script: &str) -> bool {
        self.scripts.contains_key(script)
    }

    /// `npm` with arguments, in the package.
    pub fn npm(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("npm");
        // Counts are read from the output.
        command.args(arguments).current_dir(&self.directory).env("NO_COLOR", "1").env_remove("FORCE_COLOR");
        command
    }

    /// Installs the dependencies unless they are those of the lock file.
    pub fn ensure_dependencies(&self) -> Result<()> {
        let installed = modified(&self.directory.join("node_modules/.package-lock.json"));
        let wanted = ["package.json", "package-lock.json"].map(|file| modified(&self.directory.join(file)));
        if installed.is_some() && wanted.iter().all(|wanted| *wanted <= installed) {
            return Ok(());
        }
        step::named(&format!("install the dependencies of {}", self.name), || {
            step::must(self.npm(&["ci", "--no-audit", "--no-fund"]))
        })
    }

    /// Builds the package unless its `dist` was built from the same sources.
    pub fn ensure_built(&self) -> Result<()> {
        self.ensure_dependencies()?;
        let fingerprint = self.fingerprint()?;
        let built = std::fs::read_to_string(&self.stamp).is_ok_and(|stamp| stamp == fingerprint);
        if !self.has_script("build") || (built && self.directory.join("dist").is_dir()) {
            return Ok(());
        }
        step::named(&format!("build {}", self.name), || step::must(self.npm(&["run", "build"])))?;
        if let Some(parent) = self.stamp.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&self.stamp, fingerprint).context("cannot note what was built")
    }

    /// A hash over everything that a build reads.
    fn fingerprint(&self) -> Result<String> {
        let mut files = Vec::new();
        collect(&self.directory, &mut files)?;
        files.sort();
        let mut hasher = DefaultHasher::new();
        for file in files {
            file.strip_prefix(&self.directory).unwrap_or(&file).hash(&mut hasher);
            std::fs::read(&file)?.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}

/// The files of a package that may have a part in its build.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if ["node_modules", "dist", "test", "coverage"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn modified(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}
