//! What the drill runs on: a durable Postgres that lives throughout, and the platform that is killed.
//!
//! Owns the processes and how they are configured. It knows nothing of rows and events.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use local_postgres::{LocalPostgres, Options};
use serde_json::json;
use tokio::process::Command;

use crate::child::{self, Process};
use crate::link::Endpoint;
use crate::rows::{connect, execute};

const PLATFORM_DATABASE: &str = "realtime";
const TARGET_DATABASE: &str = "drill";
/// A killed process is gone as soon as the kernel has cleaned up after it.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long the database server may take to end.
const SERVER_END_LIMIT: Duration = Duration::from_secs(10);
const TARGET_VARIABLE: &str = "CDC_DATABASE_URL";
const TOKEN_SECONDS: u64 = 24 * 3600;

/// Which programs are the platform.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// The platform as one process, `realtime dev`, in place of backend and workers
    #[arg(long)]
    single: bool,
    /// The backend's program
    #[arg(long, default_value = "target/release/backend")]
    backend: PathBuf,
    /// The workers' program
    #[arg(long, default_value = "target/release/workers")]
    workers: PathBuf,
    /// The program of --single
    #[arg(long, default_value = "target/release/realtime")]
    realtime: PathBuf,
}

/// The private database server. Dropping it ends it and removes its data.
pub struct Databases {
    server: Option<LocalPostgres>,
    platform_url: String,
    target_url: String,
    directory: tempfile::TempDir,
}

impl Databases {
    /// Starts the server, as durable as in production, with the platform's database and the application's.
    ///
    /// # Errors
    /// No Postgres on this machine, or it does not start.
    pub async fn start() -> Result<Self> {
        // Readable for others: started by root, the server runs as another user.
        let directory = tempfile::Builder::new()
            .prefix("bench-drill-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let options = Options {
            database: PLATFORM_DATABASE.to_owned(),
            ..Options::new(directory.path().join("postgres"))
        };
        let server = LocalPostgres::start(options).await?;
        let (platform_url, target_url) = (server.url(PLATFORM_DATABASE), server.url(TARGET_DATABASE));
        let databases = Self { server: Some(server), platform_url, target_url, directory };
        let mut connection = connect(&databases.platform_url).await?;
        execute(&mut connection, format!("create database {TARGET_DATABASE}")).await?;
        Ok(databases)
    }

    /// The database whose rows become events.
    pub fn target_url(&self) -> &str {
        &self.target_url
    }
}

impl Drop for Databases {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let process = PathBuf::from(format!("/proc/{}/stat", server.pid()));
        drop(server);
        // Its directory is removed next, and must not be written to any more.
        let until = Instant::now() + SERVER_END_LIMIT;
        while runs(&process) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn runs(stat: &Path) -> bool {
    std::fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z"))
}

/// How one process of the platform is started.
struct Launch {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

/// The platform over the databases. Dropping it kills it.
pub struct Stack {
    processes: Vec<Process>,
    launches: Vec<Launch>,
    directory: PathBuf,
    endpoint: Endpoint,
}

impl Stack {
    /// Starts all processes; does not wait until they serve.
    ///
    /// # Errors
    /// A program is not built, or cannot be started.
    pub fn start(programs: &Programs, databases: &Databases) -> Result<Self> {
        let secrets = Secrets::generate()?;
        let port = fixed_port(&[])?;
        let launches = if programs.single {
            vec![Launch::single(programs, databases, port, &secrets)?]
        } else {
            let launch = |name, program, port| Launch::server(name, program, databases, port, &secrets);
            vec![
                launch("backend", &programs.backend, port)?,
                launch("workers", &programs.workers, fixed_port(&[port])?)?,
            ]
        };
        let endpoint = Endpoint { address: format!("127.0.0.1:{port}"), token: Some(secrets.admin_token()?) };
        let directory = databases.directory.path().to_owned();
        let mut stack = Self { processes: Vec::new(), launches, directory, endpoint };
        stack.start_all()?;
        Ok(stack)
    }

    /// Where it serves, with an administrator's token.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether it was started with the database whose rows become events.
    pub fn knows_its_target(&self) -> bool {
        self.launches.iter().any(|launch| launch.environment.iter().any(|(name, _)| *name == TARGET_VARIABLE))
    }

    fn start_all(&mut self) -> Result<()> {
        for launch in &self.launches {
            self.processes.push(launch.start(&self.directory)?);
        }
        Ok(())
    }

    /// Kills all processes at once (SIGKILL) and starts them again at once.
    ///
    /// # Errors
    /// One had ended by itself, or cannot be started again.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.check()?;
        self.processes.iter().for_each(Process::kill);
        for process in std::mem::take(&mut self.processes) {
            process.ended(END_LIMIT).await?;
        }
        self.start_all()
    }

    /// Whether all processes run.
    ///
    /// # Errors
    /// One ended by itself; with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.processes.iter_mut().find_map(|process| (!process.is_alive()).then_some(&*process)) {
            Some(ended) => Err(ended.complaint("ended by itself")),
            None => Ok(()),
        }
    }

    /// Adds to an error what the processes last logged.
    pub fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        let logs = self.processes.iter().map(|process| process.complaint("logged last:").to_string());
        anyhow::anyhow!("{error:#}\n{}", logs.collect::<Vec<_>>().join("\n"))
    }
}

impl Launch {
    fn server(
        name: &'static str,
        program: &Path,
        databases: &Databases,
        port: u16,
        secrets: &Secrets,
    ) -> Result<Self> {
        let mut environment = secrets.environment();
        environment.push(("DATABASE_URL", databases.platform_url.clone()));
        environment.push(("PORT", port.to_string()));
        Ok(Self { name, program: built(program)?, arguments: Vec::new(), environment })
    }

    fn single(programs: &Programs, databases: &Databases, port: u16, secrets: &Secrets) -> Result<Self> {
        let mut environment = secrets.environment();
        // Without it, it would start a database server of its own, and that would be killed too.
        environment.push((TARGET_VARIABLE, databases.target_url.clone()));
        let data = databases.directory.path().join("realtime").display().to_string();
        let port = port.to_string();
        let words = ["dev", "--json", "--port", &port, "--data-dir", &data, "--database-url"];
        let mut arguments: Vec<String> = words.into_iter().map(str::to_owned).collect();
        arguments.push(databases.platform_url.clone());
        Ok(Self { name: "realtime dev", program: built(&programs.realtime)?, arguments, environment })
    }

    fn start(&self, directory: &Path) -> Result<Process> {
        let mut command: Command = child::command(&self.program);
        // In a directory without an `.env`, and with nothing of the caller's configuration.
        command.args(&self.arguments).current_dir(directory).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = Process::start(self.name, command, Duration::ZERO)?;
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

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(bytes)
}

/// What the processes of one platform share.
struct Secrets {
    jwt: String,
    key: String,
}

impl Secrets {
    fn generate() -> Result<Self> {
        Ok(Self { jwt: random_text()?, key: STANDARD.encode(random::<32>()?) })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("NODE_ENV", "development".to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
            ("JWT_SECRET", self.jwt.clone()),
            ("REALTIME_SECRET_KEY", self.key.clone()),
        ]
    }

    /// A token of the role `admin`, signed as the platform's operator could.
    fn admin_token(&self) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "sub": "drill", "aud": "app_default", "env": "development", "permissions": ["admin"],
            "iat": now, "exp": now + TOKEN_SECONDS,
        });
        Ok(signed(&self.jwt, &claims.to_string()))
    }
}

/// A JSON Web Token (RFC 7519), HS256.
fn signed(secret: &str, claims: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let body = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A free loopback port that the kernel gives to nobody's outgoing connection while the platform is down:
/// one of those could keep the platform from listening again, and a client's own could even meet itself.
fn fixed_port(taken: &[u16]) -> Result<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first: u16 = range.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32_768);
    let candidates = 10_000..first.max(10_001);
    let skipped = usize::from(u16::from_le_bytes(random()?)) % candidates.len();
    let mut ports = candidates.clone().cycle().skip(skipped).take(candidates.len());
    ports
        .find(|port| !taken.contains(port) && std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port below the kernel's range for outgoing connections")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_signed_as_in_rfc_7515() {
        // Checked with another implementation (Python's hmac module).
        let token = signed("secret", r#"{"sub":"1"}"#);
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.8qZF8vbN3UpcanXFc-mPXJkOPN01-bRch8XX3rToP1U"
        );
    }

    #[test]
    fn ports_differ_and_are_free() {
        let first = fixed_port(&[]).unwrap();
        let second = fixed_port(&[first]).unwrap();
        assert_ne!(first, second);
        assert!(std::net::TcpListener::bind(("127.0.0.1", second)).is_ok());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = built(Path::new("no/such/backend")).unwrap_err().to_string();
        assert!(error.contains("no/such/backend") && error.contains("cargo xtask drill"), "{error}");
    }
}
