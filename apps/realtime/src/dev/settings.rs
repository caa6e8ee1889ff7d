//! The configuration of `realtime dev`: the environment and `.env`, under what the command line and the data
//! directory say.
//!
//! The database and Redis variables are left out: `realtime dev` is typed in the folders of other projects, whose
//! `DATABASE_URL` it must not fill with its tables.

use super::folder::Folder;
use crate::cli::DevArgs;
use crate::exit::{Code, Failure, Outcome};
use crate::terminal::{self, Paint, Tone};
use shared_config::{Config, Vars, process_vars};
use std::net::IpAddr;
use tokio::net::TcpListener;
use url::Url;

/// Connections to databases of other projects.
const NOT_OURS: [&str; 7] = [
    "DATABASE_URL",
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_DB",
    "REDIS_URL",
];

/// What holds unless the environment says otherwise.
const DEFAULTS: [(&str, &str); 4] =
    [("NODE_ENV", "development"), ("HOST", "127.0.0.1"), ("LOG_LEVEL", "warn"), ("SHUTDOWN_SECONDS", "6")];

/// Stands for the private database until that runs.
const PLACEHOLDER: &str = "postgresql://realtime@127.0.0.1/realtime";

/// The variables, checked before anything is started.
#[derive(Debug)]
pub struct Settings {
    vars: Vars,
    checked: Config,
}

impl Settings {
    /// Reads and checks them.
    ///
    /// # Errors
    /// Every problem at once, with exit code 78; `NODE_ENV=production`, in which nothing may be open.
    pub fn read(args: &DevArgs, folder: &Folder) -> Outcome<Self> {
        let mut vars = process_vars()?;
        let ignored: Vec<&str> = NOT_OURS.into_iter().filter(|name| is_set(&vars, name)).collect();
        vars.retain(|name, _| !NOT_OURS.contains(&name.as_str()));
        for (name, value) in DEFAULTS {
            if !is_set(&vars, name) {
                vars.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some(port) = args.port {
            vars.insert("PORT".to_owned(), port.to_string());
        }
        if let Some(url) = &args.redis_url {
            vars.insert("REDIS_URL".to_owned(), url.clone());
        }
        let database = args.database_url.as_deref().unwrap_or(PLACEHOLDER);
        vars.insert("DATABASE_URL".to_owned(), database.to_owned());
        refuse_production(&vars)?;
        let checked = Config::from_vars(&vars)?;
        if !is_set(&vars, "REALTIME_SECRET_KEY") {
            vars.insert("REALTIME_SECRET_KEY".to_owned(), folder.secret_key()?);
        }
        if !ignored.is_empty() {
            let text = format!("not used here: {} (see --database-url, --redis-url)", ignored.join(", "));
            terminal::note(&Paint::stderr().tone(Tone::Faint, &text));
        }
        Ok(Self { vars, checked })
    }

    /// `LOG_LEVEL`.
    pub fn log_level(&self) -> &'static str {
        self.checked.log_level.as_str()
    }

    /// `NODE_ENV`.
    pub fn environment(&self) -> &'static str {
        self.checked.environment.as_str()
    }

    /// `CDC_DATABASE_URL`.
    pub fn target_url(&self) -> Option<&str> {
        self.checked.cdc.database_url()
    }

    /// The configuration with the database that is really there.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn with_database(&self, url: &str) -> Outcome<Config> {
        let mut vars = self.vars.clone();
        vars.insert("DATABASE_URL".to_owned(), url.to_owned());
        Ok(Config::from_vars(&vars)?)
    }

    /// Listens, before anything slower is started.
    ///
    /// # Errors
    /// Where the port is taken, or not ours to take.
    pub async fn listen(&self) -> Outcome<TcpListener> {
        let address = self.checked.listen_address();
        TcpListener::bind(address).await.map_err(|error| {
            let message = match error.kind() {
                std::io::ErrorKind::AddrInUse => format!(
                    "port {} is in use by another program\n  stop that one, or choose another port: realtime dev --port {}",
                    address.port(),
                    address.port().checked_add(1).unwrap_or(3000)
                ),
                _ => format!("cannot listen on {address}: {error} (see --port and HOST)"),
            };
            Failure::new(Code::Failure, message)
        })
    }

    /// Where a browser on this machine finds what listens on `port`.
    ///
    /// # Errors
    /// None that is known: every address makes a URL.
    pub fn url(&self, port: u16) -> Outcome<Url> {
        let host = match self.checked.host {
            host if host.is_loopback() || host.is_unspecified() => "localhost".to_owned(),
            IpAddr::V4(host) => host.to_string(),
            IpAddr::V6(host) => format!("[{host}]"),
        };
        let url = Url::parse(&format!("http://{host}:{port}"));
        url.map_err(|error| Failure::from(anyhow::Error::new(error)))
    }
}

/// Where tokens are given without credentials, nothing may be that is real.
fn refuse_production(vars: &Vars) -> Outcome {
    if vars.get("NODE_ENV").is_none_or(|value| value != "production") {
        return Ok(());
    }
    let message = "NODE_ENV is production, and realtime dev gives tokens to every program on the machine\n  unset it, or run backend and workers";
    Err(Failure::new(Code::Config, message))
}

fn is_set(vars: &Vars, name: &str) -> bool {
    vars.get(name).is_some_and(|value| !value.is_empty())
}
