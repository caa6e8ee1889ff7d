//! `realtime doctor`: what keeps the platform from working here, and the cure.
//!
//! Owns the findings and their printing. It only looks: nothing is changed, and nothing is started.

mod machine;
mod postgres;
mod redis;
mod target;

use crate::cli::ServerArgs;
use crate::exit::{Code, Failure, Outcome};
use crate::place::running_dev;
use crate::terminal::{self, Paint, Tone};
use serde::Serialize;
use serde_json::json;
use shared_config::{Config, Vars, process_vars};
use std::time::Duration;

/// How long one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, and may not for long, or not for everybody.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `postgres.version`.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub message: String,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: State::Ok, message: message.into(), cure: None }
    }

    /// Worth a look.
    pub fn warn(name: &'static str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name, state: State::Warn, message: message.into(), cure: Some(cure.into()) }
    }

    /// It does not work.
    pub fn fail(name: &'static str, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { name, state: State::Fail, message: message.into(), cure: Some(cure.into()) }
    }
}

/// Looks at everything, prints what it found, and fails if something does not work.
pub async fn run(args: &ServerArgs) -> Outcome {
    let findings = look(args).await;
    let failed = findings.iter().filter(|finding| finding.state == State::Fail).count();
    if args.json {
        let report = json!({ "ok": failed == 0, "findings": findings });
        terminal::print(&report.to_string())?;
    } else {
        findings.iter().try_for_each(print)?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Silent(Code::Failure)) }
}

async fn look(args: &ServerArgs) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("version", format!("realtime {}", env!("CARGO_PKG_VERSION")))];
    let dev = running_dev();
    let vars = match vars(dev.as_ref()) {
        Ok(vars) => vars,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    let config = match Config::from_vars(&vars) {
        Ok(config) => config,
        Err(errors) => {
            let cure =
                "set the variables as docs/configuration.md says, or start `realtime dev` in this folder";
            let problems = errors
                .problems()
                .iter()
                .map(|problem| Finding::fail("configuration", problem.to_string(), cure));
            findings.extend(problems);
            return findings;
        }
    };
    findings.push(match &dev {
        Some(dev) => {
            Finding::ok("configuration", format!("of the `realtime dev` at {} (pid {})", dev.url, dev.pid))
        }
        None => Finding::ok("configuration", format!("of the environment ({})", config.environment.as_str())),
    });
    findings.extend(machine::secrets(&config, dev.is_some()));
    findings.extend(machine::server(args, &config).await);
    let (own, targets) = postgres::look(&config).await;
    findings.extend(own);
    for url in targets {
        findings.extend(target::look(&url).await);
    }
    if let Some(redis) = &config.redis {
        findings.extend(redis::look(redis.url()).await);
    } else {
        findings.push(Finding::ok("redis", "not configured: PostgreSQL alone"));
    }
    findings
}

/// The configured variables; those of a running `realtime dev` in their place.
fn vars(dev: Option<&crate::place::RunningDev>) -> Result<Vars, Finding> {
    let mut vars = process_vars().map_err(|errors| {
        Finding::fail("configuration", errors.to_string(), "mend the .env file in this folder")
    })?;
    let Some(dev) = dev else { return Ok(vars) };
    vars.insert("DATABASE_URL".to_owned(), dev.database_url.clone());
    vars.remove("REDIS_URL");
    let known = [("CDC_DATABASE_URL", dev.target_url.clone()), ("REDIS_URL", dev.redis_url.clone())];
    vars.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    if let Some(port) = url::Url::parse(&dev.url).ok().and_then(|url| url.port_or_known_default()) {
        vars.insert("PORT".to_owned(), port.to_string());
    }
    Ok(vars)
}

fn print(finding: &Finding) -> Outcome {
    let paint = Paint::stdout();
    let state = match finding.state {
        State::Ok => paint.tone(Tone::Good, "ok  "),
        State::Warn => paint.tone(Tone::Warning, "warn"),
        State::Fail => paint.tone(Tone::Bad, "fail"),
    };
    terminal::print(&format!("{state}  {:<22}  {}", finding.name, finding.message))?;
    match &finding.cure {
        Some(cure) => {
            terminal::print(&format!("      {:<22}  {} {cure}", "", paint.tone(Tone::Strong, "cure:")))
        }
        None => Ok(()),
    }
}
