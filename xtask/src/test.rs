//! `cargo xtask test`: every test there is, one line at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::bench;
use crate::counts::Counts;
use crate::dev;
use crate::node::NodePackage;
use crate::redisjson;
use crate::step;
use crate::system::{self, Need};
use crate::workspace::Workspace;

/// Runs all runners, whatever the earlier ones say.
pub fn run(workspace: &Workspace) -> Result<()> {
    system::ensure(&[Need::Postgres, Need::Redis, Need::Node, Need::Browser])?;
    let mut total = Counts::default();

    // What the end-to-end suites run must be there, and what it was made of must not be stale.
    for preparation in preparations(workspace) {
        total.add(&preparation);
    }
    let arguments = ["test", "--workspace", "--no-fail-fast"];
    total.add(&runner("cargo test", || step::run(workspace.cargo(&arguments))));
    let again = |name: &str, package: &str, target: &str, only: Option<&str>, variables: &[(&str, &str)]| {
        runner(name, || {
            let mut command = workspace.test_program(package, target)?;
            command.args(only).envs(variables.iter().copied());
            step::run(command)
        })
    };
    let on_redis = [("REALTIME_TEST_LOG", "redis")];
    total.add(&again("the gateways, with the event log on Redis", "backend", "gateway", None, &on_redis));
    let name = "the REST API, with the event log and the documents on Redis";
    total.add(&again(name, "backend", "it", None, &on_redis));
    total.add(&match redisjson::ensure(workspace) {
        Ok(module) => {
            let variables = [("REALTIME_TEST_REDISJSON", &*module.to_string_lossy())];
            again("documents, on a Redis with RedisJSON", "redis-layer", "it", Some("documents"), &variables)
        }
        Err(error) => counted(Err(error)),
    });
    for package in NodePackage::all(workspace)?.iter().filter(|package| package.has_script("test")) {
        total.add(&runner(&format!("npm test in {}", package.name), || {
            package.ensure_dependencies()?;
            step::run(package.npm(&["test"]))
        }));
    }
    if let Some(package) = NodePackage::find(workspace, "e2e")?.filter(|package| package.has_script("test")) {
        total.add(&runner("npm test in e2e, with the event log on Redis", || {
            package.ensure_dependencies()?;
            let mut command = package.npm(&["test"]);
            command.env("REALTIME_TEST_LOG", "redis");
            step::run(command)
        }));
    }
    total.add(&counted(step::named("a minute of the drill", || bench::short_drill(workspace))));
    wait_for_shared_server(workspace);
    if total.ignored > 0 {
        eprintln!("{} tests did not run", total.ignored);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    ensure!(total.failed == 0 && total.ignored == 0, "not every test passed");
    ensure!(total.passed > 0, "no test ran");
    Ok(())
}

/// Builds packages, and the programs that embed them; a failure counts, and does not keep the rest from running.
fn preparations(workspace: &Workspace) -> Vec<Counts> {
    let failures = |result: Result<()>| Counts { passed: 0, ..counted(result) };
    let mut done = Vec::new();
    for name in ["sdk", "admin-ui"] {
        let built = NodePackage::find(workspace, name)
            .and_then(|package| package.map_or(Ok(()), |package| package.ensure_built()));
        done.push(failures(built));
    }
    done.push(failures(dev::build_programs(workspace)));
    done
}

/// Something that either is as it has to be, or is not: one test.
fn counted(result: Result<()>) -> Counts {
    match result {
        Ok(()) => Counts { passed: 1, ..Counts::default() },
        Err(error) => {
            eprintln!("error: {error:#}");
            Counts { failed: 1, ..Counts::default() }
        }
    }
}

fn runner(name: &str, run: impl FnOnce() -> Result<step::Outcome>) -> Counts {
    let outcome = step::named(name, || {
        let outcome = run()?;
        let counts = Counts::read(&outcome.output, outcome.success);
        ensure!(counts.failed == 0, FailedTests(counts));
        Ok(counts)
    });
    outcome.unwrap_or_else(|error| match error.downcast::<FailedTests>() {
        Ok(FailedTests(counts)) => counts,
        Err(error) => {
            eprintln!("error: {error:#}");
            Counts { failed: 1, ..Counts::default() }
        }
    })
}

/// Carries the counts of a failed run through the step that reports it.
#[derive(Debug)]
struct FailedTests(Counts);

impl std::fmt::Display for FailedTests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests failed", self.0.failed)
    }
}

impl std::error::Error for FailedTests {}

/// The tests' shared Postgres ends by itself, moments after its last user: we do not leave before.
fn wait_for_shared_server(workspace: &Workspace) {
    let place = workspace.target_directory.join("tmp/postgres");
    // Below root's home it is elsewhere, and linked.
    let guardians = [place.join("guardian"), place.join("moved-to/guardian")];
    let deadline = Instant::now() + Duration::from_secs(20);
    while guardians.iter().any(|guardian| guardian.exists()) {
        if Instant::now() >= deadline {
            eprintln!("note: the tests' Postgres still runs; another test run uses it");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
