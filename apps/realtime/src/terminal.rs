//! Writing to people and to pipes.
//!
//! Colours only where a person reads (a terminal, and no `NO_COLOR`), and a reader that goes away ends the command
//! quietly.

use crate::exit::{Failure, Outcome};
use std::io::{ErrorKind, IsTerminal, Write};

/// How a word stands out.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    /// What is looked for.
    Strong,
    /// What only accompanies.
    Faint,
    /// A name.
    Name,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// It did not work.
    Bad,
}

impl Tone {
    fn sequence(self) -> &'static str {
        match self {
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Name => "\x1b[36m",
            Self::Good => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

/// Whether what is written to a stream is coloured.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// For standard output.
    pub fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && wanted())
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && wanted())
    }

    /// `text`, standing out where somebody sees it.
    pub fn tone(self, tone: Tone, text: &str) -> String {
        if self.0 { format!("{}{text}\x1b[0m", tone.sequence()) } else { text.to_owned() }
    }
}

/// See <https://no-color.org>.
fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes a line of data to standard output at once.
///
/// # Errors
/// [`Failure::PipeClosed`] where nobody reads it.
pub fn print(line: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::PipeClosed,
        _ => Failure::from(anyhow::Error::new(error).context("cannot write to standard output")),
    })
}

/// Tells a person something beside the data. Nobody listening is no failure.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Tells a person what went wrong.
pub fn complain(message: &str) {
    note(&format!("{} {message}", Paint::stderr().tone(Tone::Bad, "error:")));
}
