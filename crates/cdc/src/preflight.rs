//! The preflight: everything that would keep a target from being read, found before it is, each with what mends it.

use crate::{
    evaluate::{CompiledMapping, MISFIT_CURE},
    size::Size,
    target::{
        self, Identity, Names, TargetUrl,
        inspect::{self, Columns, ServerFacts},
        publication::{self, Manage},
        quoted, slot,
    },
    trouble::{READ_ONLY, Trouble},
};
use database::tables::mappings::Mapping;
use serde::Serialize;
use shared_types::mapping::TableName;
use sqlx::PgConnection;
use std::collections::BTreeMap;

/// The oldest version that is read.
const MIN_VERSION: i32 = 140_000;
/// An open transaction of this age is worth a word where a slot has to be made.
const LONG_SECONDS: f64 = 60.0;
/// The share of the log that may be kept from which a slot is in danger.
pub(crate) const RETAINED_WARNING: f64 = 0.5;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It can be read, but something is lost or in danger.
    Warning,
    /// It cannot be read, or not all of it.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, for a person.
    pub message: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// Statements for the target that mend it, ready to run as its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// The table concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

impl Finding {
    /// Something that is wrong, and what mends it.
    pub fn new(
        severity: Severity,
        code: &'static str,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self::bad(severity, code, message).cure(cure)
    }

    fn ok(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, severity: Severity::Ok, message, cure: None, sql: None, table: None }
    }

    fn bad(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self { severity, ..Self::ok(code, message) }
    }

    fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::bad(Severity::Error, code, message)
    }

    fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::bad(Severity::Warning, code, message)
    }

    fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }

    fn sql(self, sql: impl Into<String>) -> Self {
        Self { sql: Some(sql.into()), ..self }
    }

    fn of(self, table: &TableName) -> Self {
        Self { table: Some(table.to_string()), ..self }
    }
}

impl From<Trouble> for Finding {
    fn from(trouble: Trouble) -> Self {
        Self::error(trouble.code, trouble.message).cure(trouble.cure)
    }
}

/// What a preflight looks at.
pub struct Preflight<'a> {
    /// The target.
    pub url: &'a TargetUrl,
    /// `CDC_SLOT_NAME`.
    pub slot_prefix: &'a str,
    /// What tells this installation from others.
    pub installation: &'a str,
    /// Whether the reader may change the target beside its slot.
    pub manage: Manage,
    /// System identifier and database that may not be the target.
    pub forbidden: Option<(String, String)>,
    /// The active mappings.
    pub mappings: &'a [Mapping],
}

impl Preflight<'_> {
    /// Looks at everything; what cannot be asked is a finding too.
    pub async fn run(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(trouble) = target::limited(self.look(&mut findings)).await {
            findings.push(trouble.of_target(self.url).into());
        }
        findings
    }

    async fn look(&self, findings: &mut Vec<Finding>) -> Result<(), Trouble> {
        let mut connection = target::connect(self.url).await?;
        let facts = inspect::server(&mut connection).await?;
        findings.push(Finding::ok("REACHABLE", format!("PostgreSQL {} answers", facts.version_text)));
        let identity = target::identity(&mut connection).await?;
        if self.forbidden == Some((identity.system.clone(), identity.database.clone())) {
            let message = "the target is the platform's own database, which is read in development only";
            findings
                .push(Finding::error("OWN_DATABASE", message).cure("name the application's own database"));
        }
        let names = Names::new(self.slot_prefix, self.installation, &identity.database);
        server(&facts, findings);
        if facts.read_only && !facts.in_recovery {
            let message = "new transactions of this user write nothing (default_transaction_read_only)";
            let finding = match self.manage {
                Manage::Allowed => Finding::error(READ_ONLY, message),
                Manage::Forbidden => Finding::warning(READ_ONLY, message),
            };
            findings
                .push(finding.cure("reset it for the server, the database or the user, where it was set"));
        }
        slots(&mut connection, &facts, &names, findings).await?;
        self.publication(&mut connection, &facts, &names, &identity, findings).await?;
        self.tables(&mut connection, &names, findings).await
    }

    async fn publication(
        &self,
        connection: &mut PgConnection,
        facts: &ServerFacts,
        names: &Names,
        identity: &Identity,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Trouble> {
        let name = &names.publication;
        findings.push(if publication::exists(connection, name).await? {
            Finding::ok("PUBLICATION", format!("the publication {name} exists"))
        } else if self.manage == Manage::Forbidden {
            let message = format!("the publication {name} does not exist, and the reader may not make it");
            Finding::error("PUBLICATION_MISSING", message)
                .cure("run the statement as the database's owner")
                .sql(format!("{};", publication::create_statement(name)))
        } else if facts.may_publish {
            Finding::ok("PUBLICATION", format!("the reader will make the publication {name}"))
        } else {
            let grant = format!(
                "grant create on database {} to {};",
                quoted(&identity.database),
                quoted(&facts.role)
            );
            Finding::error("PRIVILEGE", "the user may not make a publication in this database")
                .cure("let the user make it, or make it as the database's owner")
                .sql(grant)
        });
        Ok(())
    }

    async fn tables(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Trouble> {
        if self.mappings.is_empty() {
            findings.push(
                Finding::warning("NO_MAPPINGS", "no mapping is active: nothing is read")
                    .cure("create a mapping"),
            );
            return Ok(());
        }
        let mut wanted: BTreeMap<TableName, bool> = BTreeMap::new();
        for mapping in self.mappings {
            *wanted.entry(mapping.definition.table.clone()).or_default() |=
                mapping.definition.needs_old_row();
        }
        let own = target::own_types(connection).await?;
        let tables: Vec<TableName> = wanted.keys().cloned().collect();
        let relations = inspect::relations(connection, &tables, Columns::Streamed, &own).await?;
        for (table, found) in
            publication::survey(connection, &names.publication, &wanted, self.manage).await?
        {
            findings.push(match found {
                Ok(message) => Finding::ok("TABLE", message).of(&table),
                Err(trouble) => table_trouble(&table, trouble.of_target(self.url)),
            });
        }
        for mapping in self.mappings {
            let Some(relation) = relations.get(&mapping.definition.table) else { continue };
            if let Some(misfit) = CompiledMapping::new(&mapping.definition, relation).misfit(relation) {
                findings.push(
                    Finding::error("MISFIT", format!("mapping {}: {misfit}", mapping.id))
                        .cure(MISFIT_CURE)
                        .of(&mapping.definition.table),
                );
            }
        }
        Ok(())
    }
}

/// A trouble with one table; where its cure is statements, they are given as such.
fn table_trouble(table: &TableName, trouble: Trouble) -> Finding {
    let finding = match trouble.code {
        "OLD_ROWS_MISSING" => Finding::warning(trouble.code, trouble.message),
        _ => Finding::error(trouble.code, trouble.message),
    };
    let whose = match (trouble.code, trouble.cure.split(' ').next()) {
        ("PRIVILEGE", Some("alter")) => Some("make the user the owner: run the statement as a superuser"),
        ("PRIVILEGE", Some("grant")) => Some(
            "let the user act as the table's owner, who keeps it: run the statement as a superuser, or as whoever may \
             grant that role",
        ),
        (_, Some("alter")) => Some("run the statements as the table's owner"),
        _ => None,
    };
    let finding = match whose {
        Some(whose) => finding.cure(whose).sql(trouble.cure),
        None => finding.cure(trouble.cure),
    };
    finding.of(table)
}

fn server(facts: &ServerFacts, findings: &mut Vec<Finding>) {
    if facts.version < MIN_VERSION {
        let message = format!("PostgreSQL {} is too old", facts.version_text);
        findings.push(Finding::error("VERSION", message).cure("upgrade to version 14 or later"));
    }
    if facts.in_recovery {
        findings.push(
            Finding::error("STANDBY", "the server is a standby, where nothing can be prepared")
                .cure("name the primary"),
        );
    }
    findings.push(match facts.wal_level.as_str() {
        "logical" => Finding::ok("WAL_LEVEL", "wal_level is logical"),
        level => {
            let trouble = Trouble::wal_level(level);
            Finding::from(trouble).sql("alter system set wal_level = 'logical';")
        }
    });
    findings.push(if facts.may_replicate {
        Finding::ok("REPLICATION", format!("the user {} may use replication", facts.role))
    } else {
        Finding::error("PRIVILEGE", format!("the user {} may not use replication", facts.role))
            .cure("run the statement as a superuser; on managed services grant their replication role")
            .sql(format!("alter role {} with replication;", quoted(&facts.role)))
    });
    if facts.keep_bytes < 0 {
        findings.push(
            Finding::warning("WAL_UNLIMITED", "a reader that is away can fill the server's disk with log")
                .cure("say how much log a slot may keep; a reader that is away for longer loses changes")
                .sql("alter system set max_slot_wal_keep_size = '20GB'; select pg_reload_conf();"),
        );
    }
}

async fn slots(
    connection: &mut PgConnection,
    facts: &ServerFacts,
    names: &Names,
    findings: &mut Vec<Finding>,
) -> Result<(), Trouble> {
    let name = &names.slot;
    let found = match slot::find(connection, name).await {
        Ok(found) => found,
        Err(trouble) if trouble.code == "SLOT_FOREIGN" => {
            findings.push(
                Finding::error(trouble.code, trouble.message)
                    .cure("drop it where nobody needs it, or set another CDC_SLOT_NAME")
                    .sql(format!("select pg_drop_replication_slot('{}');", name.replace('\'', "''"))),
            );
            return Ok(());
        }
        Err(trouble) => return Err(trouble),
    };
    match &found {
        Some(slot) if slot.lost => findings.push(
            Finding::warning("SLOT_LOST", format!("the slot {name} has lost log that it had not read"))
                .cure("none: the reader makes it anew, and says the gap"),
        ),
        Some(_) => findings.push(retained(connection, name).await?),
        None if facts.slots >= i64::from(facts.max_slots) => findings.push(no_slot(connection, facts).await?),
        None => {
            findings.push(Finding::ok("SLOT", format!("the reader will make the slot {name}")));
            if facts.oldest_write_seconds > LONG_SECONDS {
                let age = facts.oldest_write_seconds as u64;
                findings.push(
                    Finding::warning("SLOT_WAITS", format!("a transaction is open for {age} s: making the slot waits for it"))
                        .cure("end it")
                        .sql("select pid, xact_start, state, query from pg_stat_activity where backend_xid is not null order by xact_start;"),
                );
            }
        }
    }
    let reads = found.is_some_and(|slot| slot.active_pid.is_some());
    if !reads && facts.senders >= i64::from(facts.max_senders) {
        findings.push(
            Finding::error("CONNECTIONS_FULL", format!("all {} walsenders are in use", facts.max_senders))
                .cure("raise the limit, which needs a restart, or stop another reader")
                .sql(format!("alter system set max_wal_senders = {};", facts.max_senders + 5)),
        );
    }
    Ok(())
}

async fn retained(connection: &mut PgConnection, name: &str) -> Result<Finding, Trouble> {
    let Some(retained) = inspect::retained(connection, name).await? else {
        return Ok(Finding::ok("SLOT", format!("the slot {name} exists")));
    };
    let kept = Size::of(retained.retained_bytes);
    Ok(match retained.share() {
        Some(share) if share >= RETAINED_WARNING => {
            let percent = (share * 100.0) as u64;
            let message = format!(
                "the slot {name} keeps {kept} of log, {percent} % of max_slot_wal_keep_size: past 100 % changes are lost"
            );
            Finding::warning("SLOT_RETAINS", message)
                .cure("see why it is not read faster; meanwhile let it keep more")
                .sql(format!(
                    "alter system set max_slot_wal_keep_size = '{}MB'; select pg_reload_conf();",
                    retained.keep_bytes / (1 << 20) * 2
                ))
        }
        _ => Finding::ok("SLOT", format!("the slot {name} exists and keeps {kept} of log")),
    })
}

async fn no_slot(connection: &mut PgConnection, facts: &ServerFacts) -> Result<Finding, Trouble> {
    let unread = inspect::unread_slots(connection).await?;
    let drops =
        unread.iter().map(|slot| format!("select pg_drop_replication_slot('{}');", slot.replace('\'', "''")));
    let raise = format!("alter system set max_replication_slots = {};", facts.max_slots + 5);
    let sql = std::iter::once(raise).chain(drops).collect::<Vec<_>>().join("\n");
    Ok(Finding::error("SLOTS_FULL", format!("all {} replication slots are in use", facts.max_slots))
        .cure("raise the limit, which needs a restart, or drop a slot that nobody needs any more")
        .sql(sql))
}
