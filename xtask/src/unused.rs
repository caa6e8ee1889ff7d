//! Dependencies that a manifest declares and no source names.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::workspace::{Dependency, Package, Workspace};

/// Fails with every unused dependency.
pub fn check(workspace: &Workspace) -> Result<()> {
    let mut unused = Vec::new();
    for package in &workspace.packages {
        let library = sources(package, &["src"])?;
        let everything = library.clone() + &sources(package, &["tests", "benches", "examples"])?;
        let build = std::fs::read_to_string(package.directory().join("build.rs")).unwrap_or_default();
        for dependency in &package.dependencies {
            let text = match dependency.kind.as_deref() {
                None => &library,
                Some("build") => &build,
                Some(_) => &everything,
            };
            if !names(text, &identifier(dependency)) {
                unused.push(format!("{}: {}", package.name, dependency.name));
            }
        }
    }
    if unused.is_empty() {
        return Ok(());
    }
    unused.sort();
    unused.dedup();
    bail!("unused dependencies:\n  {}", unused.join("\n  "));
}

/// The name by which sources know a dependency.
fn identifier(dependency: &Dependency) -> String {
    dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_")
}

/// Whether `identifier` stands in `text` as a whole word outside comments.
fn names(text: &str, identifier: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| word == identifier)
}

/// The text of all Rust sources in directories of a package.
fn sources(package: &Package, directories: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for directory in directories {
        collect(&package.directory().join(directory), &mut files)?;
    }
    files.iter().map(|file| Ok(std::fs::read_to_string(file)? + "\n")).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_as_a_whole_word_in_code() {
        assert!(names("use serde_json::Value;", "serde_json"));
        assert!(!names("use serde_json::Value;", "serde"));
        assert!(!names("// serde is good\n/// serde too", "serde"));
    }
}
