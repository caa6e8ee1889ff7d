//! Which server a command talks to, and what a running `realtime dev` left for it to find.
//!
//! Owns the layout of the data directory's own files (`lock`, `dev.json`, `secrets.json`) and the order in which
//! URL and token are looked for.

use crate::cli::ServerArgs;
use crate::exit::{Failure, Outcome};
use anyhow::Context;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use url::Url;

const DEFAULT_URL: &str = "http://localhost:3000";
const DIRECTORY: &str = ".realtime";

/// What `realtime dev` writes into `dev.json` once it is ready, for the other commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningDev {
    /// Where the server listens, without a slash at the end.
    pub url: String,
    /// An administrator's token, renewed before it expires.
    pub token: String,
    /// The platform's database, with password.
    pub database_url: String,
    /// The database whose changes are followed, with password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_url: Option<String>,
    /// Redis, where it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_url: Option<String>,
    /// Its process.
    pub pid: u32,
}

impl RunningDev {
    fn is_at(&self, url: &Url) -> bool {
        Url::parse(&self.url).is_ok_and(|own| same_place(&own, url))
    }
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    /// The data directory at `path`, which may not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The data directory of the working directory or of one above it.
    fn nearest() -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        here.ancestors().map(|folder| folder.join(DIRECTORY)).find(|place| place.is_dir()).map(Self)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The file that the running process holds a lock on.
    pub fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// See [`RunningDev`].
    pub fn dev_file(&self) -> PathBuf {
        self.0.join("dev.json")
    }

    /// Secrets that were made on the first start.
    pub fn secrets_file(&self) -> PathBuf {
        self.0.join("secrets.json")
    }

    /// The process that holds the lock, asked without taking it: a stale file of a killed process names nobody.
    pub fn holder(&self) -> Option<i32> {
        let file = File::open(self.lock_file()).ok()?;
        let whole = Flock {
            start: 0,
            length: 0,
            pid: None,
            typ: FlockType::ReadLock,
            offset_type: FlockOffsetType::Set,
        };
        let held = fcntl_getlk(&file, &whole).ok()??;
        Some(held.pid.map_or(0, |pid| pid.as_raw_nonzero().get()))
    }

    /// The `realtime dev` that runs here and is ready.
    pub fn running(&self) -> Option<RunningDev> {
        let holder = self.holder()?;
        let text = std::fs::read(self.dev_file()).ok()?;
        let dev: RunningDev = serde_json::from_slice(&text).ok()?;
        (i64::from(holder) == i64::from(dev.pid)).then_some(dev)
    }
}

/// The `realtime dev` that runs in this folder, or in one above it.
pub fn running_dev() -> Option<RunningDev> {
    Place::nearest()?.running()
}

/// The server to talk to.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its base URL.
    pub url: Url,
    /// The token or API key, where there is one.
    pub token: Option<String>,
    /// Whether the token came from a running `realtime dev`, which has a fresh one when it expires.
    pub is_own_dev: bool,
}

impl Server {
    /// What the arguments and the environment say, and below them a running `realtime dev`, whose token goes to
    /// no other server than itself.
    ///
    /// # Errors
    /// A URL that is not one of HTTP.
    pub fn find(args: &ServerArgs) -> Outcome<Self> {
        let dev = running_dev();
        let url = match (&args.url, &dev) {
            (Some(url), _) => url.clone(),
            (None, dev) => {
                let url = dev.as_ref().map_or(DEFAULT_URL, |dev| dev.url.as_str());
                Url::parse(url).context("the URL of `realtime dev` cannot be read")?
            }
        };
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            let message = format!("--url must begin with http:// or https://, not {url}");
            return Err(Failure::new(crate::exit::Code::Usage, message));
        }
        let own = dev.filter(|dev| dev.is_at(&url));
        // `REALTIME_TOKEN=` in a shell or an `.env` says that there is none.
        let given = args.token.clone().filter(|token| !token.is_empty());
        let is_own_dev = given.is_none() && own.is_some();
        let token = given.or(own.map(|dev| dev.token));
        Ok(Self { url, token, is_own_dev })
    }

    /// The address of `path` below the base URL.
    pub fn address(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The token as it is now: that of a `realtime dev` changes.
    pub fn fresh_token(&self) -> Option<String> {
        let newer = running_dev().filter(|dev| self.is_own_dev && dev.is_at(&self.url));
        newer.map(|dev| dev.token).or_else(|| self.token.clone())
    }
}

fn same_place(one: &Url, other: &Url) -> bool {
    let name = |url: &Url| match url.host_str() {
        Some("localhost" | "127.0.0.1" | "[::1]") => "this machine".to_owned(),
        host => host.unwrap_or_default().to_owned(),
    };
    name(one) == name(other) && one.port_or_known_default() == other.port_or_known_default()
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    // A leftover of another mode would keep it.
    let _ = std::fs::remove_file(&partial);
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Server {
        Server { url: url.parse().unwrap(), token: None, is_own_dev: false }
    }

    #[test]
    fn addresses_keep_the_path_of_the_base() {
        assert_eq!(server("http://h:1").address("/ws").as_str(), "http://h:1/ws");
        assert_eq!(server("https://h/rt/?x=1").address("/ws").as_str(), "https://h/rt/ws");
    }

    #[test]
    fn names_of_this_machine_are_one_place_and_ports_are_not() {
        let same = |a: &str, b: &str| same_place(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("http://localhost:3000", "http://127.0.0.1:3000/"));
        assert!(same("http://[::1]:80", "http://localhost"));
        assert!(!same("http://localhost:3000", "http://localhost:3001"));
        assert!(!same("http://localhost:3000", "http://example.com:3000"));
    }

    #[test]
    fn a_file_without_a_living_holder_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::at(folder.path());
        let dev = RunningDev {
            url: "http://localhost:1".to_owned(),
            token: "t".to_owned(),
            database_url: "postgresql://x/y".to_owned(),
            target_url: None,
            redis_url: None,
            pid: std::process::id(),
        };
        write_private(&place.dev_file(), &serde_json::to_string(&dev).unwrap()).unwrap();
        std::fs::write(place.lock_file(), "").unwrap();
        assert!(place.running().is_none());
    }

    #[test]
    fn private_files_are_private_and_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.json");
        write_private(&path, "one").unwrap();
        write_private(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
