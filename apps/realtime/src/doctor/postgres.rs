//! The platform's own database.

use super::{Finding, PATIENCE};
use chrono::Utc;
use database::pool::{self, PoolSettings};
use database::sealing::Sealer;
use database::tables::applications;
use database::{Pool, migrate};
use shared_config::Config;
use std::collections::BTreeSet;

/// The oldest version that is tested.
const OLDEST: i32 = 14;
/// Timestamps are compared between machines: a clock that is off by more shows in latencies and expiries.
const CLOCK_WARN_MS: i64 = 1_000;
const CLOCK_FAIL_MS: i64 = 30_000;

/// Looks at the database, and finds the targets that applications are set to.
pub async fn look(config: &Config) -> (Vec<Finding>, BTreeSet<String>) {
    let mut targets: BTreeSet<String> = config.cdc.database_url().map(str::to_owned).into_iter().collect();
    let settings = PoolSettings {
        min_connections: 0,
        max_connections: 1,
        acquire_timeout: PATIENCE,
        application_name: "realtime doctor".to_owned(),
        ..PoolSettings::new(config.postgres.url())
    };
    let reached = match pool::connect_lazy(&settings) {
        Ok(pool) => pool::ping(&pool, PATIENCE).await.map(|()| pool),
        Err(error) => Err(error),
    };
    let pool = match reached {
        Ok(pool) => pool,
        Err(error) => {
            let cure = "start it, or mend DATABASE_URL or POSTGRES_*; `realtime dev` brings its own";
            return (vec![Finding::fail("postgres", error.to_string(), cure)], targets);
        }
    };
    let mut findings = vec![version("postgres", &pool).await, clock("postgres.clock", &pool).await];
    findings.push(migrations(&pool).await);
    findings.extend(set_targets(config, &pool, &mut targets).await);
    pool.close().await;
    (findings, targets)
}

async fn migrations(pool: &Pool) -> Finding {
    match migrate::pending(pool).await {
        Ok(0) => Finding::ok("postgres.migrations", "all applied"),
        Ok(pending) => Finding::warn(
            "postgres.migrations",
            format!("{pending} pending"),
            "realtime migrate latest; a server does it when it starts",
        ),
        Err(error) => {
            Finding::fail("postgres.migrations", error.to_string(), "grant this user the schema public")
        }
    }
}

/// The targets of applications; they are sealed, and open only with the server's key.
async fn set_targets(config: &Config, pool: &Pool, targets: &mut BTreeSet<String>) -> Option<Finding> {
    let key = config.secret_key.as_ref()?;
    let found = applications::with_cdc_targets(pool, &Sealer::new(key.expose())).await.ok()?;
    let mut sealed = 0;
    for target in found {
        match target.url {
            Ok(url) => {
                targets.insert(url);
            }
            Err(_) => sealed += 1,
        }
    }
    (sealed > 0).then(|| {
        Finding::fail(
            "secrets.sealed",
            format!("{sealed} connection strings were sealed with another key"),
            "set the REALTIME_SECRET_KEY that they were sealed with, or set them anew",
        )
    })
}

/// Whether the server's version is one that is tested.
pub async fn version(name: &'static str, executor: &Pool) -> Finding {
    let version: Result<(String, i32), _> = sqlx::query_as(
        "select current_setting('server_version'), current_setting('server_version_num')::int / 10000",
    )
    .fetch_one(executor)
    .await;
    match version {
        Ok((text, major)) if major >= OLDEST => Finding::ok(name, format!("PostgreSQL {text}")),
        Ok((text, _)) => Finding::warn(
            name,
            format!("PostgreSQL {text} is older than what is tested"),
            "upgrade to 14 or later",
        ),
        Err(error) => Finding::fail(name, error.to_string(), "see the server's log"),
    }
}

/// How far the server's clock is from this machine's, half the way there and back allowed for.
pub async fn clock(name: &'static str, executor: &Pool) -> Finding {
    let before = Utc::now().timestamp_millis();
    let asked = sqlx::query_scalar::<_, i64>("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
        .fetch_one(executor)
        .await;
    let after = Utc::now().timestamp_millis();
    match asked {
        Ok(theirs) => judge_clock(name, theirs - (before + after) / 2),
        Err(error) => Finding::fail(name, error.to_string(), "see the server's log"),
    }
}

fn judge_clock(name: &'static str, difference_ms: i64) -> Finding {
    let cure = "let both machines follow a time server (chrony, systemd-timesyncd)";
    let text = format!("the server's clock differs by {difference_ms} ms");
    match difference_ms.abs() {
        ms if ms < CLOCK_WARN_MS => Finding::ok(name, text),
        ms if ms < CLOCK_FAIL_MS => Finding::warn(name, text, cure),
        _ => Finding::fail(name, text, cure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_clock_is_judged_by_its_distance_either_way() {
        let cases = [(0, State::Ok), (-999, State::Ok), (1_000, State::Warn), (-30_000, State::Fail)];
        for (difference, expected) in cases {
            assert_eq!(judge_clock("c", difference).state, expected, "{difference}");
        }
    }
}
