//! Where a server's files are.
//!
//! Owns the layout of a server's directory and making sure that the server's user can reach it.
//!
//! ```text
//! <directory>/lock        held by the process that runs the server
//! <directory>/password    the superuser's, readable by us only
//! <directory>/port        the last port, tried first at the next start
//! <directory>/server.log
//! <directory>/cluster/    the server's own data directory
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Doing, LocalPostgresError};
use crate::identity::User;

/// A log larger than this is started anew.
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// Where directories go that the server's user could not reach in the place asked for.
const FALLBACK: &str = "/var/lib/realtime";

/// The link to the fallback in the directory that was asked for.
const MOVED: &str = "moved-to";

/// A server's directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Makes the directory, or one in `/var/lib` where root asks for a place that the server's user
    /// cannot reach, as below `/root`.
    pub(crate) fn prepare(wanted: &Path, user: Option<User>) -> Result<Self, LocalPostgresError> {
        let wanted = std::path::absolute(wanted).doing(|| format!("resolve {}", wanted.display()))?;
        make(&wanted)?;
        let wanted = wanted.canonicalize().doing(|| format!("resolve {}", wanted.display()))?;
        if user.is_some() {
            open_to_others(&wanted)?;
        }
        let root = if user.is_some() && !others_may_enter(&wanted) { fallback(&wanted)? } else { wanted };
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    /// Takes the right to run a server here; it is given back when the file is dropped or we die.
    pub(crate) fn lock(&self) -> Result<File, LocalPostgresError> {
        let path = self.root.join("lock");
        let file = open_private(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(LocalPostgresError::InUse(self.root.clone())),
            Err(TryLockError::Error(error)) => Err(error).doing(|| format!("lock {}", path.display())),
        }
    }

    /// The superuser's password, made on first use.
    pub(crate) fn password(&self) -> Result<String, LocalPostgresError> {
        let path = self.root.join("password");
        let mut file = open_private(&path)?;
        let mut password = String::new();
        file.read_to_string(&mut password).doing(|| format!("read {}", path.display()))?;
        if password.len() < PASSWORD_LENGTH {
            password = random_hex()?;
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| file.write_all(password.as_bytes()))
                .doing(|| format!("write {}", path.display()))?;
        }
        Ok(password)
    }

    pub(crate) fn last_port(&self) -> Option<u16> {
        std::fs::read_to_string(self.root.join("port")).ok()?.trim().parse().ok()
    }

    pub(crate) fn remember_port(&self, port: u16) -> Result<(), LocalPostgresError> {
        std::fs::write(self.root.join("port"), port.to_string()).doing(|| "remember the port".to_owned())
    }

    /// The server's log, opened for appending.
    pub(crate) fn log(&self) -> Result<File, LocalPostgresError> {
        let path = self.root.join("server.log");
        let large = path.metadata().is_ok_and(|metadata| metadata.len() > LOG_LIMIT_BYTES);
        if large {
            std::fs::remove_file(&path).doing(|| format!("remove {}", path.display()))?;
        }
        let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        open.doing(|| format!("open {}", path.display()))
    }

    /// The end of the server's log after its first `from` bytes, for messages.
    pub(crate) fn log_tail(&self, from: u64) -> String {
        let text = std::fs::read(self.root.join("server.log")).unwrap_or_default();
        let recent = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or(&text);
        let recent = String::from_utf8_lossy(recent);
        let lines: Vec<&str> = recent.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

const PASSWORD_LENGTH: usize = 32;

fn random_hex() -> Result<String, LocalPostgresError> {
    let mut bytes = [0_u8; PASSWORD_LENGTH / 2];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .doing(|| "read /dev/urandom".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn open_private(path: &Path) -> Result<File, LocalPostgresError> {
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    open.doing(|| format!("open {}", path.display()))
}

fn make(directory: &Path) -> Result<(), LocalPostgresError> {
    // Entered by the server's user, listed by nobody else.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
    made.doing(|| format!("create {}", directory.display()))
}

/// Lets others enter (not list) our own directory.
fn open_to_others(directory: &Path) -> Result<(), LocalPostgresError> {
    let action = || format!("open {} to PostgreSQL", directory.display());
    let mut permissions = directory.metadata().doing(action)?.permissions();
    permissions.set_mode(permissions.mode() | 0o011);
    std::fs::set_permissions(directory, permissions).doing(action)
}

/// Whether a stranger may enter every directory on the way.
fn others_may_enter(directory: &Path) -> bool {
    directory
        .ancestors()
        .all(|part| part.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

/// A place in `/var/lib` that belongs to `wanted`, where a link says where the files went.
fn fallback(wanted: &Path) -> Result<PathBuf, LocalPostgresError> {
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let place = Path::new(FALLBACK).join(format!("{:016x}", hasher.finish()));
    make(&place)?;
    let link = wanted.join(MOVED);
    if !link.is_symlink() {
        symlink(&place, &link).doing(|| format!("write into {}", wanted.display()))?;
    }
    tracing::info!(wanted = %wanted.display(), place = %place.display(), "postgres data kept elsewhere");
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_made_once_and_is_private() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::prepare(&place.path().join("deep/er"), None).unwrap();
        let password = directory.password().unwrap();
        assert_eq!(password.len(), PASSWORD_LENGTH);
        assert_eq!(directory.password().unwrap(), password);
        let mode = directory.root().join("password").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }

    #[test]
    fn only_one_may_run_a_server() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::prepare(place.path(), None).unwrap();
        let held = directory.lock().unwrap();
        assert!(matches!(directory.lock(), Err(LocalPostgresError::InUse(_))));
        drop(held);
        directory.lock().unwrap();
    }

    #[test]
    fn closed_directories_on_the_way_are_noticed() {
        let place = tempfile::tempdir().unwrap();
        let inner = place.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!others_may_enter(&inner));
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(others_may_enter(&inner));
    }
}
