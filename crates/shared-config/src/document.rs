//! The generated files: `.env.example` and `docs/configuration.md`.
//!
//! Owns their wording around the table of variables. Both are pure functions of [`VARIABLES`]; the
//! example `generate` writes them, and a test compares them with what is committed.

use std::fmt::Write;

use crate::variables::{Requirement, Section, VARIABLES, Variable};

/// The contents of `.env.example`: every variable, those that may be left out commented out.
pub fn env_example() -> String {
    let mut text = String::from(
        "# Configuration of the realtime platform. Copy to `.env` and change what you need.\n\
         # Generated from crates/shared-config by `cargo run -p shared-config --example generate`.\n\
         # What the process environment sets wins over this file.\n",
    );
    for section in Section::ALL {
        let _ = write!(text, "\n# --- {} ---\n", section.title());
        for variable in variables_of(section) {
            text.push_str(&env_lines(variable));
        }
    }
    text
}

/// The lines of one variable: what it does, then its assignment.
fn env_lines(variable: &Variable) -> String {
    let mut lines = format!("\n# {}\n", plain(variable.description));
    let _ = writeln!(lines, "# Rule: {}.", plain(&variable.kind.rule()));
    // A file that is copied unchanged must work: only what has to be set is set.
    let comment = if variable.required == Requirement::WithoutDatabaseUrl { "" } else { "# " };
    if variable.required == Requirement::InProduction {
        lines.push_str("# Required in production.\n");
    }
    let value = variable.default.unwrap_or(variable.example);
    let _ = writeln!(lines, "{comment}{}={value}", variable.name);
    lines
}

/// The contents of `docs/configuration.md`.
pub fn configuration_markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Generated from crates/shared-config by `cargo run -p shared-config --example generate`. -->\n\n\
         Every program of the platform reads the same environment variables, and below them a `.env` file \
         in its working directory: what the process environment sets wins. A variable that is set to \
         nothing counts as not set. Variables that are not listed here are ignored.\n\n\
         A bad configuration is reported whole: the program prints every problem with the variable's name \
         and rule, and exits with code 78. Values of secrets are never printed or logged.\n",
    );
    for section in Section::ALL {
        let _ = write!(text, "\n## {}\n\n{}\n\n", section.title(), section.introduction());
        text.push_str("| Variable | Required | Default | Rule | Description |\n|---|---|---|---|---|\n");
        for variable in variables_of(section) {
            text.push_str(&markdown_row(variable));
        }
    }
    text.push_str(PRODUCTION);
    text
}

const PRODUCTION: &str = "\n## In production\n\n\
    - `NODE_ENV=production` refuses to start without `REALTIME_SECRET_KEY`, and with a `JWT_SECRET` that \
    is the documentation's sample or shorter than 32 bytes.\n\
    - Prefer signing keys made through the API to `JWT_SECRET`: they can be rotated without a restart.\n\
    - Encrypt connections to the databases: `?sslmode=verify-full` in PostgreSQL URLs, `rediss://` for Redis.\n\
    - Give every backend and worker the same `REALTIME_SECRET_KEY`, and keep a copy of it with the backups: \
    what it sealed cannot be read without it.\n\
    - `LOG_LEVEL=info` or `warn`; logs are JSON lines on standard error.\n";

fn variables_of(section: Section) -> impl Iterator<Item = &'static Variable> {
    VARIABLES.iter().filter(move |variable| variable.section == section)
}

fn markdown_row(variable: &Variable) -> String {
    let default = variable.default.map_or_else(|| "—".to_owned(), |value| format!("`{value}`"));
    let secret = if variable.secret { " Secret." } else { "" };
    format!(
        "| `{}` | {} | {default} | {} | {}{secret} |\n",
        variable.name,
        variable.required.label(),
        variable.kind.rule().replace('|', "\\|"),
        variable.description.replace('|', "\\|"),
    )
}

/// Markdown without its code marks, for a comment.
fn plain(markdown: &str) -> String {
    markdown.replace('`', "")
}
