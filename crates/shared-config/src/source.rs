//! Where variables come from: the process environment, and a `.env` file below it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::problem::{ConfigErrors, Problem};

/// Variables by name, before any rule has been applied.
pub type Vars = BTreeMap<String, String>;

/// The process environment over the `.env` file of the working directory, where there is one.
///
/// For programs that add to what was configured (`realtime dev`) before [`crate::Config::from_vars`].
///
/// # Errors
///
/// A `.env` file that cannot be read or parsed, named `.env`.
pub fn process_vars() -> Result<Vars, ConfigErrors> {
    merge(Path::new(".env"), environment())
}

/// The variables in `file` under `environment`, which wins where both set a name.
///
/// An empty variable of the environment counts as set: it can take a value of the file away again.
pub(crate) fn merge(file: &Path, environment: Vars) -> Result<Vars, ConfigErrors> {
    let mut vars = file_vars(file).map_err(|rule| {
        ConfigErrors::from_problems(vec![Problem { variable: ".env".to_owned(), rule }])
            .expect("one problem was given")
    })?;
    vars.extend(environment);
    Ok(vars)
}

/// The process environment; what is not Unicode cannot be one of ours and is left out.
fn environment() -> Vars {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The file's variables; none if it does not exist. Lines of the file are kept out of messages.
fn file_vars(file: &Path) -> Result<Vars, String> {
    if !file.exists() {
        return Ok(Vars::new());
    }
    let lines = dotenvy::from_path_iter(file).map_err(|error| format!("cannot be opened: {error}"))?;
    lines.collect::<Result<Vars, dotenvy::Error>>().map_err(|error| match error {
        dotenvy::Error::LineParse(_, position) => {
            format!("a line cannot be parsed as NAME=value (at its character {position})")
        }
        other => format!("cannot be read: {other}"),
    })
}
