//! A database whose changes are to be followed: what logical replication needs of it.

use super::postgres::{clock, version};
use super::{Finding, PATIENCE};
use cdc::Trouble;
use database::Pool;
use sqlx::FromRow;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Asked in one go; a setting that this version does not have is null.
const QUESTIONS: &str = "
    select current_database()::text as database, current_user::text as me,
        current_setting('wal_level') as wal_level,
        current_setting('max_replication_slots')::int as slots,
        (select count(*)::int from pg_replication_slots) as slots_used,
        current_setting('max_wal_senders')::int as senders,
        (select count(*)::int from pg_stat_replication) as senders_used,
        (select rolreplication or rolsuper from pg_roles where rolname = current_user) as may_replicate,
        coalesce((select pg_has_role(current_user, oid, 'member') from pg_roles where rolname = 'rds_replication'),
            false) as may_replicate_by_role,
        has_database_privilege(current_database(), 'create') as may_publish,
        current_setting('max_slot_wal_keep_size', true) as keep,
        coalesce((select string_agg(slot_name, ', ') from pg_replication_slots
            where wal_status in ('unreserved', 'lost')), '') as endangered";

#[derive(Debug, FromRow)]
struct Answers {
    database: String,
    me: String,
    wal_level: String,
    slots: i32,
    slots_used: i32,
    senders: i32,
    senders_used: i32,
    may_replicate: bool,
    may_replicate_by_role: bool,
    may_publish: bool,
    keep: Option<String>,
    endangered: String,
}

/// Looks at one target; each finding says which.
pub async fn look(url: &str) -> Vec<Finding> {
    let place = place(url);
    let findings = findings(url).await.into_iter();
    findings.map(|found| Finding { message: format!("{place}: {}", found.message), ..found }).collect()
}

/// Host, port and database of `url`: there may be several targets.
fn place(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            format!("{host}:{}{}", url.port().unwrap_or(5432), url.path())
        }
        Err(_) => "a target whose URL cannot be understood".to_owned(),
    }
}

async fn findings(url: &str) -> Vec<Finding> {
    let cure = "start it, or mend the target's URL (CDC_DATABASE_URL, or the application's config.cdc)";
    let pool = match connect(url).await {
        Ok(pool) => pool,
        Err(trouble) => return vec![Finding::fail("target", trouble.message, cure)],
    };
    let mut findings = vec![version("target", &pool).await, clock("target.clock", &pool).await];
    match sqlx::query_as::<_, Answers>(QUESTIONS).fetch_one(&pool).await {
        Ok(answers) => findings.extend(judge(&answers)),
        Err(error) => findings.push(Finding::fail("target", Trouble::of_sql(&error).message, cure)),
    }
    pool.close().await;
    findings
}

async fn connect(url: &str) -> Result<Pool, Trouble> {
    let options: PgConnectOptions = url.parse().map_err(|error| Trouble::of_sql(&error))?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(options.application_name("realtime doctor"));
    match tokio::time::timeout(PATIENCE, sqlx::query("select 1").execute(&pool)).await {
        Ok(Ok(_)) => Ok(pool),
        Ok(Err(error)) => Err(Trouble::of_sql(&error)),
        Err(_) => Err(Trouble::unreachable("no answer in time")),
    }
}

fn judge(found: &Answers) -> Vec<Finding> {
    vec![
        wal_level(found),
        slots(found),
        senders(found),
        privileges(found),
        retained(found),
        endangered(found),
    ]
}

fn wal_level(found: &Answers) -> Finding {
    if found.wal_level == "logical" {
        return Finding::ok("target.wal_level", "logical");
    }
    let trouble = Trouble::wal_level(&found.wal_level);
    Finding::fail("target.wal_level", trouble.message, trouble.cure)
}

fn slots(found: &Answers) -> Finding {
    let text = format!("{} of {} replication slots are used", found.slots_used, found.slots);
    if found.slots_used < found.slots {
        return Finding::ok("target.slots", text);
    }
    let cure = "alter system set max_replication_slots = …; and restart, or drop slots that nobody reads. Where our own slot is among them, all is well";
    Finding::warn("target.slots", text, cure)
}

fn senders(found: &Answers) -> Finding {
    let text = format!("{} of {} WAL senders are used", found.senders_used, found.senders);
    if found.senders_used < found.senders {
        return Finding::ok("target.senders", text);
    }
    Finding::fail("target.senders", text, "alter system set max_wal_senders = …; and restart the server")
}

fn privileges(found: &Answers) -> Finding {
    if !(found.may_replicate || found.may_replicate_by_role) {
        let cure = format!(
            "alter role {} with replication; (managed services: grant their replication role, as rds_replication)",
            found.me
        );
        return Finding::fail("target.privileges", format!("{} may not replicate", found.me), cure);
    }
    if !found.may_publish {
        let text = format!("{} may not make a publication", found.me);
        let cure = format!("grant create on database {} to {};", found.database, found.me);
        return Finding::fail("target.privileges", text, cure);
    }
    Finding::ok("target.privileges", format!("{} may replicate and publish", found.me))
}

fn retained(found: &Answers) -> Finding {
    match found.keep.as_deref() {
        Some("-1") | None => Finding::warn(
            "target.retained",
            "a slot that nobody reads keeps the log for ever, until the disk is full",
            "alter system set max_slot_wal_keep_size = '16GB'; select pg_reload_conf();",
        ),
        Some(limit) => Finding::ok("target.retained", format!("a slot keeps at most {limit} of the log")),
    }
}

fn endangered(found: &Answers) -> Finding {
    if found.endangered.is_empty() {
        return Finding::ok("target.slot_health", "no slot has lost any of the log");
    }
    Finding::warn(
        "target.slot_health",
        format!("the log is no longer kept for: {}", found.endangered),
        "see GET /api/database/cdc/status: the reader makes its slot anew and says the gap; raise max_slot_wal_keep_size",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn healthy() -> Answers {
        Answers {
            database: "shop".to_owned(),
            me: "me".to_owned(),
            wal_level: "logical".to_owned(),
            slots: 10,
            slots_used: 1,
            senders: 10,
            senders_used: 1,
            may_replicate: true,
            may_replicate_by_role: false,
            may_publish: true,
            keep: Some("4GB".to_owned()),
            endangered: String::new(),
        }
    }

    fn troubles(found: &Answers) -> Vec<(&'static str, State)> {
        let all = judge(found).into_iter();
        all.filter(|f| f.state != State::Ok).map(|f| (f.name, f.state)).collect()
    }

    #[tokio::test]
    async fn a_finding_says_which_target_and_nothing_secret() {
        let found = look("postgres://me:secret@127.0.0.1:1/shop?sslmode=disable").await;
        assert_eq!((found.len(), found[0].state), (1, State::Fail));
        assert!(found[0].message.starts_with("127.0.0.1:1/shop: "), "{found:?}");
        assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        assert_eq!(place("postgres://me:secret@db.example/shop"), "db.example:5432/shop");
    }

    #[test]
    fn each_trouble_is_its_own_finding() {
        assert_eq!(troubles(&healthy()), []);
        let cases = [
            (Answers { wal_level: "replica".to_owned(), ..healthy() }, "target.wal_level", State::Fail),
            (Answers { slots_used: 10, ..healthy() }, "target.slots", State::Warn),
            (Answers { senders_used: 10, ..healthy() }, "target.senders", State::Fail),
            (Answers { may_replicate: false, ..healthy() }, "target.privileges", State::Fail),
            (Answers { may_publish: false, ..healthy() }, "target.privileges", State::Fail),
            (Answers { keep: Some("-1".to_owned()), ..healthy() }, "target.retained", State::Warn),
            (Answers { endangered: "s".to_owned(), ..healthy() }, "target.slot_health", State::Warn),
        ];
        for (found, name, state) in cases {
            assert_eq!(troubles(&found), [(name, state)]);
        }
        assert_eq!(troubles(&Answers { may_replicate: false, may_replicate_by_role: true, ..healthy() }), []);
    }
}
