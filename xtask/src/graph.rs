//! `cargo xtask graph`: who uses whom, and who may.
//!
//! The floors are those of docs/architecture.md: a crate uses only what is below it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::workspace::{Package, Workspace};

/// Every crate's floor. One that is not here has no place in the house yet, which is a breach too.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["shared-types"]),
    (
        1,
        &[
            "event-log",
            "leadership",
            "outbound",
            "presence",
            "document-store",
            "shared-config",
            "metrics",
            "observability",
            "local-postgres",
        ],
    ),
    (2, &["database", "redis-layer", "topic-registry", "schema-registry", "event-router", "jobs"]),
    (3, &["auth", "sync", "cdc", "outbox", "webhooks"]),
    (4, &["platform"]),
    (5, &["backend", "workers"]),
    (6, &["realtime"]),
];

/// Crates beside the house: they may use any of it, and nobody's ordinary code may use them.
const TOOLS: &[&str] = &["testkit", "bench", "xtask"];

/// Libraries that only some crates may know.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("pg_walstream", &["cdc"]),
    ("axum", &["backend", "workers"]),
    // `realtime doctor` looks at a Redis that the platform may not be able to use yet.
    ("fred", &["redis-layer", "realtime"]),
    ("apalis", &["jobs"]),
    ("apalis-postgres", &["jobs"]),
];

/// Libraries that a crate must not know.
const KEPT_FROM: &[(&str, &[&str])] =
    &[("event-router", &["sqlx", "fred"]), ("event-log", &["sqlx", "fred"])];

/// Prints the graph and fails on a breach.
pub fn run(workspace: &Workspace) -> Result<()> {
    print!("{}", drawing(&workspace.packages));
    check(workspace)
}

/// Fails on a breach, naming all of them.
pub fn check(workspace: &Workspace) -> Result<()> {
    let breaches = breaches(&workspace.packages);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("the floors of docs/architecture.md are breached:\n  {}", breaches.join("\n  "));
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, names)| names.contains(&name)).map(|(floor, _)| *floor)
}

/// The graph, floor by floor.
fn drawing(packages: &[Package]) -> String {
    let mut by_floor: BTreeMap<Option<u8>, Vec<&Package>> = BTreeMap::new();
    for package in packages {
        by_floor.entry(floor(&package.name)).or_default().push(package);
    }
    let mut text = String::new();
    for (floor, mut packages) in by_floor.into_iter().rev() {
        let title = floor.map_or("beside the house".to_owned(), |floor| format!("floor {floor}"));
        text.push_str(&format!("{title}\n"));
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        for package in packages {
            let names = |dev| {
                let ours = package.dependencies.iter().filter(|d| d.path.is_some() && d.is_dev() == dev);
                ours.map(|dependency| dependency.name.as_str()).collect::<Vec<_>>().join(" ")
            };
            let (uses, tests) = (names(false), names(true));
            let tests = if tests.is_empty() { tests } else { format!("   (tests: {tests})") };
            text.push_str(format!("  {:<16} {uses}{tests}", package.name).trim_end());
            text.push('\n');
        }
    }
    text
}

fn breaches(packages: &[Package]) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in packages.iter().filter(|package| !TOOLS.contains(&package.name.as_str())) {
        let name = package.name.as_str();
        let Some(own) = floor(name) else {
            breaches.push(format!("{name} has no floor: give it one in docs/architecture.md and xtask"));
            continue;
        };
        for dependency in &package.dependencies {
            breaches.extend(breach(
                name,
                own,
                &dependency.name,
                dependency.path.is_some(),
                dependency.is_dev(),
            ));
        }
    }
    breaches.sort();
    breaches
}

/// What is wrong with one dependency, if anything is.
fn breach(name: &str, own: u8, used: &str, ours: bool, dev: bool) -> Option<String> {
    if !ours {
        let kept_to = KEPT_TO.iter().find(|(library, _)| *library == used).map(|(_, crates)| *crates);
        if !dev && kept_to.is_some_and(|crates| !crates.contains(&name)) {
            return Some(format!("{name} knows {used}, which only {} may", kept_to?.join(" and ")));
        }
        let kept_from = KEPT_FROM.iter().any(|(by, libraries)| *by == name && libraries.contains(&used));
        return (kept_from && !dev).then(|| format!("{name} must not know {used}"));
    }
    if TOOLS.contains(&used) {
        let allowed = dev && used == "testkit";
        return (!allowed).then(|| format!("{name} uses {used}, which is for tests only"));
    }
    match floor(used) {
        Some(below) if below < own || (dev && below <= own) => None,
        Some(below) => Some(format!("{name} (floor {own}) uses {used} (floor {below})")),
        None => Some(format!("{name} uses {used}, which has no floor")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_may_be_used() {
        assert_eq!(breach("auth", 3, "database", true, false), None);
        assert!(breach("auth", 3, "cdc", true, false).is_some());
        assert!(breach("database", 2, "auth", true, false).is_some());
        assert!(breach("database", 2, "nowhere", true, false).is_some());
    }

    #[test]
    fn test_tools_are_for_tests() {
        assert_eq!(breach("database", 2, "testkit", true, true), None);
        assert!(breach("database", 2, "testkit", true, false).is_some());
        assert!(breach("database", 2, "bench", true, true).is_some());
    }

    #[test]
    fn libraries_are_kept_to_their_crates() {
        assert_eq!(breach("cdc", 3, "pg_walstream", false, false), None);
        assert!(breach("platform", 4, "pg_walstream", false, false).is_some());
        assert!(breach("event-router", 2, "sqlx", false, false).is_some());
        assert_eq!(breach("event-router", 2, "sqlx", false, true), None);
        assert_eq!(breach("database", 2, "sqlx", false, false), None);
    }
}
