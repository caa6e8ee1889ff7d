//! How one process of the platform is started: its program and its configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::process::Command;

use crate::child::{self, Process};
use crate::stage::Secrets;

/// Which programs are the platform.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// The platform as one process, `realtime dev`, in place of backends and workers; only it is killed
    #[arg(long)]
    pub single: bool,
    /// The backend's program
    #[arg(long, default_value = "target/release/backend")]
    pub backend: PathBuf,
    /// The workers' program
    #[arg(long, default_value = "target/release/workers")]
    pub workers: PathBuf,
    /// The program of --single
    #[arg(long, default_value = "target/release/realtime")]
    pub realtime: PathBuf,
}

/// Where what a process needs is.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The platform's database.
    pub database_url: String,
    /// Redis, where the event log is there.
    pub redis_url: Option<String>,
    /// A directory without an `.env`.
    pub directory: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
}

/// One process, and how it is started.
#[derive(Debug)]
pub struct Launch {
    /// Its name in messages, and of its log.
    pub name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    directory: PathBuf,
    log: PathBuf,
}

impl Launch {
    /// A backend or workers on `port`.
    ///
    /// # Errors
    /// The program is not built.
    pub fn server(
        name: String,
        program: &Path,
        port: u16,
        around: &Surroundings,
        secrets: &Secrets,
    ) -> Result<Self> {
        let mut environment = environment(secrets);
        environment.push(("DATABASE_URL", around.database_url.clone()));
        environment.push(("PORT", port.to_string()));
        if let Some(url) = &around.redis_url {
            environment.push(("REDIS_URL", url.clone()));
        }
        let log = around.logs.join(format!("{name}.log"));
        let program = built(program)?;
        Ok(Self {
            name,
            program,
            arguments: Vec::new(),
            environment,
            directory: around.directory.clone(),
            log,
        })
    }

    /// The platform as one process on `port`, which reads `target_url`.
    ///
    /// # Errors
    /// The program is not built.
    pub fn single(
        program: &Path,
        port: u16,
        around: &Surroundings,
        target_url: &str,
        secrets: &Secrets,
    ) -> Result<Self> {
        let mut environment = environment(secrets);
        // Without it, it would start a database server of its own, and that would be killed too.
        environment.push(("CDC_DATABASE_URL", target_url.to_owned()));
        let data = around.directory.join("realtime").display().to_string();
        let port = port.to_string();
        let words = ["dev", "--json", "--port", &port, "--data-dir", &data, "--database-url"];
        let mut arguments: Vec<String> = words.into_iter().map(str::to_owned).collect();
        arguments.push(around.database_url.clone());
        let (name, log) = ("platform".to_owned(), around.logs.join("platform.log"));
        let program = built(program)?;
        Ok(Self { name, program, arguments, environment, directory: around.directory.clone(), log })
    }

    /// Starts it; does not wait until it serves.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> Result<Process> {
        let mut command: Command = child::command(&self.program);
        // With nothing of the caller's configuration.
        command.args(&self.arguments).current_dir(&self.directory).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start_with_log(&self.name, command, Duration::ZERO, self.log.clone())?;
        process.discard_output();
        Ok(process)
    }
}

fn built(program: &Path) -> Result<PathBuf> {
    if !program.is_file() {
        bail!("{} is not built: run `cargo xtask drill`, which builds it", program.display());
    }
    Ok(std::path::absolute(program)?)
}

/// A text that nobody can guess.
///
/// # Errors
/// The system has no randomness.
pub fn random_text() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// Random bytes.
///
/// # Errors
/// The system has no randomness.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(bytes)
}

/// The configuration of every process.
fn environment(secrets: &Secrets) -> Vec<(&'static str, String)> {
    let settings = [
        ("NODE_ENV", "development".to_owned()),
        ("HOST", "127.0.0.1".to_owned()),
        ("LOG_LEVEL", "info".to_owned()),
        // A long drill's history is read from its beginning.
        ("LOG_HISTORY_SECONDS", "86400".to_owned()),
    ];
    settings.into_iter().chain(secrets.environment()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = built(Path::new("no/such/backend")).unwrap_err().to_string();
        assert!(error.contains("no/such/backend") && error.contains("cargo xtask drill"), "{error}");
    }
}
