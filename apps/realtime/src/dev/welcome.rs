//! What a person reads when everything runs.

use super::folder::Folder;
use super::stack::Stack;
use crate::exit::Outcome;
use crate::place::RunningDev;
use crate::terminal::{self, Paint, Tone};
use std::path::Path;
use std::time::Duration;

/// Says where everything is and, the first time, what to try.
///
/// # Errors
/// An output that nobody reads.
pub fn print(dev: &RunningDev, stack: &Stack, folder: &Folder, demo: bool, took: Duration) -> Outcome {
    let paint = Paint::stdout();
    let url = &dev.url;
    let program = program();
    let say = |line: &str| terminal::print(line);
    let head = format!("realtime is running at {}", paint.tone(Tone::Name, url));
    say(&format!("{head} {}", paint.tone(Tone::Faint, &format!("({:.1} s)", took.as_secs_f64()))))?;
    if stack.has_shop() || demo {
        say(&format!("  orders, live  {}", paint.tone(Tone::Name, &format!("{url}/demo/"))))?;
    }
    if let Some(target) = &dev.target_url {
        say(&format!("  database      psql \"{target}\""))?;
    }
    if !folder.is_new() {
        say(&format!("  token         {program} token"))?;
        return say("Ctrl-C stops everything.");
    }
    say(&format!("  token         {}", dev.token))?;
    say(&format!(
        "                {}",
        paint.tone(Tone::Faint, &format!("an administrator's, for a day; also in {}", shown(folder)))
    ))?;
    if let (Some(target), true) = (&dev.target_url, stack.has_shop()) {
        say("")?;
        say(&paint.tone(Tone::Strong, "Try it, each in a terminal of its own:"))?;
        say(&format!("  {program} tail order.updated"))?;
        say(&format!("  curl -N \"{url}/api/stream?topic=order.updated&token=$({program} token)\""))?;
        say(&format!("  psql \"{target}\" -c \"update orders set total = total + 1 where id = 1\""))?;
    }
    say("")?;
    say("Ctrl-C stops everything. Data is kept for the next start.")
}

fn shown(folder: &Folder) -> String {
    folder.place().dev_file().display().to_string()
}

/// How this program is called from here: by its name where it is on the path, else by its place.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    if !called.contains('/') {
        return "realtime".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    Path::new(&called).strip_prefix(&here).unwrap_or(Path::new(&called)).display().to_string()
}
