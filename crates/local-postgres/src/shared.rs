//! One throwaway server for all test programs of a run.
//!
//! Owns who starts it, who joins it and who ends it. Programs sign in with a file named after their
//! process id; a small shell program, the guardian, ends the server and removes its data when no program
//! that signed in is alive any more. So a killed test run leaves nothing behind either.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::sync::OnceCell;

use crate::control::{LOOK_EVERY, clear_leftover, until};
use crate::directory::Directory;
use crate::error::{Doing, LocalPostgresError};
use crate::identity::{User, server_user};
use crate::process::{is_alive, server_command};
use crate::server::{Address, START_ATTEMPTS, START_LIMIT, free_port, is_passing, within};
use crate::settings::Options;
use crate::{binaries, cluster, pidfile};

const GUARDIAN: &str = include_str!("guardian.sh");

/// Longer than starting a server, which the holder of the lock may be about.
const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// Longer than the guardian takes to stop a server.
const STOPPING_LIMIT: Duration = Duration::from_secs(30);

/// The throwaway server that all test programs of a run share.
///
/// Programs keep it running by being alive; there is nothing to release. Tests make databases of their
/// own in it, best from a template.
#[derive(Debug)]
pub struct SharedPostgres {
    address: Address,
    directory: PathBuf,
}

impl SharedPostgres {
    /// The server of this checkout's target directory: joined if it runs, else started.
    ///
    /// # Errors
    ///
    /// As [`crate::LocalPostgres::start`].
    pub async fn acquire() -> Result<&'static Self, LocalPostgresError> {
        static SERVER: OnceCell<SharedPostgres> = OnceCell::const_new();
        SERVER.get_or_try_init(|| async { Self::acquire_in(&run_directory()).await }).await
    }

    /// The server in `directory`, joined or started, kept until this process ends.
    ///
    /// # Errors
    ///
    /// As [`crate::LocalPostgres::start`].
    pub async fn acquire_in(directory: &Path) -> Result<Self, LocalPostgresError> {
        let user = server_user()?;
        let run = Run { place: Directory::prepare(directory, user)?, user };
        let _turn = run.take_turn().await?;
        run.sign_in()?;
        run.wait_for_stopping().await?;
        // Before the server: nothing that we start may be left without it, should we die on the way.
        run.ensure_guardian()?;
        let address = match run.running_server().await {
            Some(address) => address,
            None => run.start_server().await?,
        };
        Ok(Self { address, directory: run.place.root().to_owned() })
    }

    /// The connection string of one of its databases, password included.
    pub fn url(&self, database: &str) -> String {
        self.address.url(database)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// Where its files are while it runs; gone afterwards.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the database `name`, as a copy of `template` if one is given.
    ///
    /// # Errors
    ///
    /// `name` exists, `template` does not or is in use.
    pub async fn create_database(
        &self,
        name: &str,
        template: Option<&str>,
    ) -> Result<(), LocalPostgresError> {
        let template = template.unwrap_or("template1");
        self.administer(format!("create database {} template {}", quoted(name), quoted(template))).await
    }

    /// Drops the database `name` if it exists, its connections with it.
    ///
    /// # Errors
    ///
    /// Something holds on to it that may not be ended, as a replication slot in use.
    pub async fn drop_database(&self, name: &str) -> Result<(), LocalPostgresError> {
        self.administer(format!("drop database if exists {} with (force)", quoted(name))).await
    }

    async fn administer(&self, statement: String) -> Result<(), LocalPostgresError> {
        let mut connection: PgConnection = self.address.connect("postgres").await?;
        // Names are quoted; the statements are ours.
        within(sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection)).await?;
        within(sqlx::Connection::close(connection)).await
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A place that all test programs of a build share: `tmp/postgres` of cargo's target directory, which is
/// the one that the running program was built into.
fn run_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_owned).join("tmp/postgres")
}

/// The directory of a shared server, seen by a program that joins.
struct Run {
    place: Directory,
    user: Option<User>,
}

impl Run {
    fn path(&self, name: &str) -> PathBuf {
        self.place.root().join(name)
    }

    fn cluster(&self) -> PathBuf {
        self.path("server/cluster")
    }

    /// Programs join one after the other; the file's lock ends with the value, or with us.
    async fn take_turn(&self) -> Result<File, LocalPostgresError> {
        let path = self.path("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.doing(|| format!("open {}", path.display()))?;
        if until(LOCK_LIMIT, || file.try_lock().is_ok()).await {
            return Ok(file);
        }
        Err(LocalPostgresError::InUse(self.place.root().to_owned()))
    }

    /// From now on the guardian knows us. Those who are gone are forgotten, for their ids come again.
    fn sign_in(&self) -> Result<(), LocalPostgresError> {
        let users = self.path("users");
        fs::create_dir_all(&users).doing(|| format!("create {}", users.display()))?;
        let entries = fs::read_dir(&users).doing(|| format!("read {}", users.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let gone = name.to_str().and_then(|name| name.parse().ok()).is_none_or(|pid| !is_alive(pid));
            if gone {
                let _ = fs::remove_file(entry.path());
            }
        }
        let own = users.join(std::process::id().to_string());
        fs::write(&own, "").doing(|| format!("write {}", own.display()))
    }

    /// Lets a guardian finish that was about to stop the server when we signed in.
    async fn wait_for_stopping(&self) -> Result<(), LocalPostgresError> {
        let mark = self.path("stopping");
        let done = || !mark.exists() || !number_in(&mark).is_some_and(is_alive);
        if !until(STOPPING_LIMIT, done).await {
            return Err(LocalPostgresError::InUse(self.place.root().to_owned()));
        }
        if mark.exists() {
            fs::remove_file(&mark).doing(|| format!("remove {}", mark.display()))?;
        }
        Ok(())
    }

    /// The server that runs here, if it also answers.
    async fn running_server(&self) -> Option<Address> {
        let cluster = self.cluster();
        until(START_LIMIT, || pidfile::running(&cluster).is_none_or(|file| file.ready)).await;
        pidfile::running(&cluster)?;
        let server = Directory::prepare(&self.path("server"), self.user).ok()?;
        let address =
            Address { port: server.last_port()?, user: USER.to_owned(), password: server.password().ok()? };
        within(sqlx::Connection::close(address.connect("postgres").await.ok()?)).await.ok()?;
        Some(address)
    }

    /// Starts a server with nothing in it: what a crash of the machine left would not be whole.
    async fn start_server(&self) -> Result<Address, LocalPostgresError> {
        clear_leftover(&self.cluster()).await?;
        let home = self.path("server");
        if home.exists() {
            fs::remove_dir_all(&home).doing(|| format!("remove {}", home.display()))?;
        }
        let bin = binaries::find()?;
        let server = Directory::prepare(&home, self.user)?;
        let options = options(&home);
        cluster::ensure(&server, &bin, self.user, &options).await?;
        let mut attempt = 1;
        loop {
            let port = free_port()?;
            match self.start_on(port, &bin, &server, &options).await {
                Ok(()) => {
                    server.remember_port(port)?;
                    return Ok(Address { port, user: USER.to_owned(), password: server.password()? });
                }
                Err(LocalPostgresError::Exited(log)) if attempt < START_ATTEMPTS && is_passing(&log) => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn start_on(
        &self,
        port: u16,
        bin: &Path,
        server: &Directory,
        options: &Options,
    ) -> Result<(), LocalPostgresError> {
        cluster::configure(server, self.user, options, port)?;
        let cluster = server.cluster();
        let pid = spawn_apart(server_command(bin, &cluster, &server.log()?, self.user)?)?;
        let deadline = Instant::now() + START_LIMIT;
        while !pidfile::read(&cluster).is_some_and(|file| file.ready && file.pid == pid) {
            if !is_alive(pid) {
                return Err(LocalPostgresError::Exited(server.log_tail(0)));
            }
            if Instant::now() >= deadline {
                let seconds = START_LIMIT.as_secs();
                return Err(LocalPostgresError::TimedOut { seconds, log: server.log_tail(0) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts a guardian unless one is at work.
    fn ensure_guardian(&self) -> Result<(), LocalPostgresError> {
        let file = self.path("guardian");
        if number_in(&file).is_some_and(|pid| is_alive(pid) && self.is_guardian(pid)) {
            return Ok(());
        }
        let script = self.path("guardian.sh");
        fs::write(&script, GUARDIAN).doing(|| format!("write {}", script.display()))?;
        let mut command = Command::new("/bin/sh");
        command.arg(&script).arg(self.place.root());
        // Open output would keep a pipe behind `cargo test` open for as long as the guardian lives.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.current_dir("/").process_group(0);
        let pid = spawn_apart(command)?;
        fs::write(&file, pid.to_string()).doing(|| format!("write {}", file.display()))
    }

    /// Whether `pid` is the guardian of this directory, and not a later process with its number.
    fn is_guardian(&self, pid: i32) -> bool {
        let shown = Command::new("ps").args(["-p", &pid.to_string(), "-o", "args="]).output();
        let args = match fs::read(format!("/proc/{pid}/cmdline")) {
            Ok(args) => args,
            Err(_) => shown.map(|output| output.stdout).unwrap_or_default(),
        };
        String::from_utf8_lossy(&args).contains(&*self.place.root().to_string_lossy())
    }
}

const USER: &str = "realtime";

fn options(home: &Path) -> Options {
    let mut options = Options::throwaway(home);
    let many = [("max_connections", "400"), ("max_replication_slots", "100"), ("max_wal_senders", "100")];
    options.settings = many.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    options
}

fn number_in(file: &Path) -> Option<i32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Starts a process that may outlive us. While we live, a thread takes note of its end, for a zombie
/// would look alive to the guardian.
fn spawn_apart(mut command: Command) -> Result<i32, LocalPostgresError> {
    let mut child = command.spawn().doing(|| format!("start {}", command.get_program().display()))?;
    let pid = i32::try_from(child.id()).expect("process ids are positive i32");
    std::thread::Builder::new()
        .name("shared-postgres".to_owned())
        .spawn(move || child.wait())
        .doing(|| "start a thread".to_owned())?;
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_s_directory_is_in_the_target_directory() {
        let directory = run_directory();
        assert!(directory.ends_with("tmp/postgres"));
        let program = std::env::current_exe().unwrap();
        assert!(program.starts_with(directory.parent().unwrap().parent().unwrap()));
    }

    #[test]
    fn the_guardian_s_script_is_plain_sh() {
        let checked = Command::new("/bin/sh").args(["-n", "-c", GUARDIAN]).status().unwrap();
        assert!(checked.success());
    }
}
