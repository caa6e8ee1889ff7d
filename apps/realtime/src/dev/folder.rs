//! The data directory: one `realtime dev` at a time.
//!
//! The lock is the operating system's, on the file `lock`: it ends with its process, however that ends, and what a
//! killed process left lying about is not mistaken for a running one.

use crate::exit::{Code, Failure, Outcome};
use crate::place::{Place, RunningDev, write_private};
use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::RngCore;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct Folder {
    place: Place,
    is_new: bool,
    // The system's lock is gone as soon as the process closes *any* handle of the file: it is opened only here.
    _lock: File,
}

/// What is made on the first start and kept.
#[derive(Debug, Serialize, Deserialize)]
struct Secrets {
    #[serde(rename = "REALTIME_SECRET_KEY")]
    secret_key: String,
}

impl Folder {
    /// Makes the directory where it is missing, and takes it.
    ///
    /// # Errors
    /// Where another process has it: which, and where it listens.
    pub fn claim(place: Place) -> Outcome<Self> {
        let directory = place.directory();
        // Others may pass, as the database server's user must, but not look.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(directory);
        made.with_context(|| format!("cannot create {}", directory.display()))?;
        let path = place.lock_file();
        let opened =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let lock = opened.with_context(|| format!("cannot open {}", path.display()))?;
        match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                drop(lock);
                return Err(in_use(&place));
            }
            Err(error) => {
                let message = format!("cannot lock {}: {error} (choose another --data-dir)", path.display());
                return Err(Failure::new(Code::Failure, message));
            }
        }
        let is_new = !place.secrets_file().exists();
        let folder = Self { place, is_new, _lock: lock };
        folder.withdraw();
        folder.ignore()?;
        Ok(folder)
    }

    /// Whether nothing was ever started here.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// As it was given.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where the private server keeps its files.
    pub fn postgres(&self) -> PathBuf {
        self.place.directory().join("postgres")
    }

    /// The secret key, made on the first start.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn secret_key(&self) -> Outcome<String> {
        let path = self.place.secrets_file();
        if let Ok(text) = std::fs::read(&path) {
            let secrets: Secrets = serde_json::from_slice(&text).with_context(|| {
                let name = path.display();
                format!("{name} cannot be read; what it sealed is lost without it: restore it, or remove the data directory")
            })?;
            return Ok(secrets.secret_key);
        }
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        let secrets = Secrets { secret_key: STANDARD.encode(key) };
        let text = serde_json::to_string_pretty(&secrets).context("secrets are text")?;
        write_private(&path, &text)?;
        Ok(secrets.secret_key)
    }

    /// Lets other commands find the server.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn announce(&self, dev: &RunningDev) -> Outcome {
        let text = serde_json::to_string_pretty(dev).context("what is announced is text")?;
        Ok(write_private(&self.place.dev_file(), &text)?)
    }

    /// Takes the announcement back; there may be none.
    pub fn withdraw(&self) {
        let _ = std::fs::remove_file(self.place.dev_file());
    }

    /// Keeps version control out, wherever the directory is.
    fn ignore(&self) -> Outcome {
        let path = self.place.directory().join(".gitignore");
        if !path.exists() {
            std::fs::write(&path, "*\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn in_use(place: &Place) -> Failure {
    let directory = place.directory().display();
    let message = match (place.running(), place.holder()) {
        (Some(dev), _) => format!(
            "realtime dev is already running in {directory}: {} (pid {})\n  stop it with Ctrl-C or `kill {}`, or start a second one with --data-dir and --port",
            dev.url, dev.pid, dev.pid
        ),
        (None, Some(pid)) => format!("realtime dev is just starting or stopping in {directory} (pid {pid})"),
        (None, None) => format!("another realtime dev has just been in {directory}; try again"),
    };
    Failure::new(Code::Failure, message)
}
