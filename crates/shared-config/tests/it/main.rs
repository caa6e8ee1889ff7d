//! The configuration from outside: defaults, precedence, every problem at once, generated files.

mod generated;
mod problems;
mod values;

use shared_config::Vars;

/// The least that a server needs.
fn minimal() -> Vars {
    vars(&[("DATABASE_URL", "postgresql://realtime:secret@db:5432/realtime")])
}

fn vars(pairs: &[(&str, &str)]) -> Vars {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// `base` with `pairs` over it.
fn with(base: Vars, pairs: &[(&str, &str)]) -> Vars {
    let mut all = base;
    all.extend(vars(pairs));
    all
}
