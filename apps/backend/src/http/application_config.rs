//! What may be set for an application, how it is changed, and how it is shown.

use super::body::Object;
use crate::state::AppState;
use auth::{Person, Role};
use cdc::TargetUrl;
use database::{
    DatabaseError,
    sealing::Sealer,
    tables::applications::{
        ApplicationConfig, Limits, NetworkPolicy, TopicPolicy, open_outbox, open_target, seal_outbox,
        seal_target,
    },
};
use outbound::Policy;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared_types::{AppId, Environment, Problem, Scope, Violation};
use std::collections::BTreeMap;
use url::Url;
use utoipa::ToSchema;

/// What stands in place of a password.
const MASK: &str = "****";
/// The most origins of an environment.
const MAX_ORIGINS: usize = 100;

/// Changes of one thing by environment; null removes.
type Changes<T> = BTreeMap<EnvironmentName, Option<T>>;

/// An environment as the name of a member; read as a text, so that failures can name the member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct EnvironmentName(Environment);

impl TryFrom<String> for EnvironmentName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self).map_err(|_| "must be development, staging or production")
    }
}

/// What to change of an application's settings.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigPatch {
    /// The database whose changes are followed, and whether its publication and replica identities may be changed
    /// (in development where absent): `{ "development": { "databaseUrl": "postgres://…", "manageTables": true } }`.
    #[schema(value_type = Object)]
    cdc: Changes<Object<TargetInput>>,
    /// The database whose `event_outbox` is read: `{ "development": { "databaseUrl": "postgres://…" } }`.
    #[schema(value_type = Object)]
    outbox: Changes<Object<OutboxInput>>,
    /// Whether webhooks, target databases and outboxes may be in private networks or on this machine, by environment:
    /// `{ "production": { "allowPrivate": true } }`. Only a super_admin sets it. Where nothing is set, they may under
    /// `NODE_ENV=development` only.
    #[schema(value_type = Object)]
    webhook_network_policy: Changes<Object<NetworkPolicy>>,
    /// `open` or `registered`, by environment.
    #[schema(value_type = Object)]
    topic_policy: Changes<TopicPolicy>,
    /// Origins that browsers may connect from, by environment.
    #[schema(value_type = Object)]
    allowed_origins: Changes<Vec<String>>,
    /// Limits below the server's own, by environment.
    #[schema(value_type = Object)]
    limits: Changes<Object<Limits>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetInput {
    database_url: String,
    manage_tables: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OutboxInput {
    database_url: String,
}

impl ConfigPatch {
    /// Checks the changes and makes them.
    ///
    /// # Errors
    /// `VALIDATION_FAILED` naming the field.
    pub(super) fn apply(
        &self,
        state: &AppState,
        application: &AppId,
        config: &mut ApplicationConfig,
        setter: Setter,
    ) -> Result<(), Problem> {
        // First: whether the other settings are allowed depends on it.
        for (EnvironmentName(environment), policy) in &self.webhook_network_policy {
            if setter != Setter::SuperAdmin {
                let message = "only a super_admin says whether private addresses may be reached";
                return Err(Problem::forbidden(message));
            }
            let policy = policy.as_ref().map(|Object(policy)| *policy);
            set(&mut config.webhook_network_policy, *environment, policy);
        }
        for (EnvironmentName(environment), change) in &self.cdc {
            let stored = match change {
                None => None,
                Some(Object(input)) => {
                    let scope = Scope::new(application.clone(), *environment);
                    let path = format!("config.cdc.{environment}.databaseUrl");
                    let target = check_url(&path, &input.database_url)?;
                    if !state.http.own_database_as_target && is_platform_database(state, &target) {
                        let rule = "is the platform's own database, which may not be followed";
                        return Err(Problem::field(path, rule));
                    }
                    check_address(&path, &target, network(state, config, *environment))?;
                    Some(seal_target(&state.sealer, &scope, &input.database_url, input.manage_tables))
                }
            };
            set(&mut config.cdc, *environment, stored);
        }
        for (EnvironmentName(environment), change) in &self.outbox {
            let stored = match change {
                None => None,
                Some(Object(input)) => {
                    let scope = Scope::new(application.clone(), *environment);
                    let path = format!("config.outbox.{environment}.databaseUrl");
                    let target = check_url(&path, &input.database_url)?;
                    if is_platform_database(state, &target) {
                        let rule = "is the platform's own database, whose event_outbox is always read";
                        return Err(Problem::field(path, rule));
                    }
                    check_address(&path, &target, network(state, config, *environment))?;
                    Some(seal_outbox(&state.sealer, &scope, &input.database_url))
                }
            };
            set(&mut config.outbox, *environment, stored);
        }
        for (EnvironmentName(environment), origins) in &self.allowed_origins {
            check_origins(*environment, origins.as_deref().unwrap_or_default())?;
            set(&mut config.allowed_origins, *environment, origins.clone());
        }
        for (EnvironmentName(environment), limits) in &self.limits {
            let limits = limits.as_ref().map(|Object(limits)| limits);
            check_limits(*environment, limits)?;
            set(&mut config.limits, *environment, limits.cloned());
        }
        for (EnvironmentName(environment), policy) in &self.topic_policy {
            set(&mut config.topic_policy, *environment, *policy);
        }
        Ok(())
    }
}

/// Who changes settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setter {
    /// Somebody who may do everything, everywhere.
    SuperAdmin,
    /// Somebody else who may change applications.
    Another,
}

impl Setter {
    /// Whoever acts: a person with that role in all applications, or not.
    pub(super) fn of(person: Option<&Person>) -> Self {
        let is_super = |person: &Person| person.roles().any(|role| role == (Role::SuperAdmin, None));
        if person.is_some_and(is_super) { Self::SuperAdmin } else { Self::Another }
    }
}

/// Where an application's connections may lead.
pub(super) fn network(state: &AppState, config: &ApplicationConfig, environment: Environment) -> Policy {
    let is_development = state.http.environment == Environment::Development;
    Policy::of(config.allow_private(environment), is_development)
}

/// Refuses an address that may not be reached. What a name leads to is looked at when it is connected to.
fn check_address(path: &str, target: &TargetUrl, policy: Policy) -> Result<(), Problem> {
    let refused = match (policy, outbound::literal(target.host())) {
        (Policy::Public, Some(address)) => outbound::address::check(address).err(),
        _ => None,
    };
    match refused {
        Some(why) => Err(Problem::field(path, format!("is {why}, which this application may not reach"))),
        None => Ok(()),
    }
}

fn set<T>(map: &mut BTreeMap<Environment, T>, environment: Environment, value: Option<T>) {
    match value {
        Some(value) => map.insert(environment, value),
        None => map.remove(&environment),
    };
}

fn check_url(path: &str, url: &str) -> Result<TargetUrl, Problem> {
    let target: TargetUrl = url.parse().map_err(|problem: Problem| {
        Problem::fields(problem.details.into_iter().map(|d| Violation::new(path, d.message)).collect())
    })?;
    let given = Url::parse(url).ok();
    if given.as_ref().and_then(Url::password).is_some_and(|password| password == MASK) {
        return Err(Problem::field(path, "holds the masked password; give the whole URL or leave it out"));
    }
    Ok(target)
}

fn is_platform_database(state: &AppState, target: &TargetUrl) -> bool {
    state.http.platform_database_url.parse::<TargetUrl>().is_ok_and(|own| {
        own.host().eq_ignore_ascii_case(target.host())
            && own.port() == target.port()
            && own.database() == target.database()
    })
}

fn check_origins(environment: Environment, origins: &[String]) -> Result<(), Problem> {
    let path = |index: usize| format!("config.allowedOrigins.{environment}[{index}]");
    if origins.len() > MAX_ORIGINS {
        return Err(Problem::field(path(MAX_ORIGINS), format!("at most {MAX_ORIGINS} origins")));
    }
    for (index, origin) in origins.iter().enumerate() {
        let fits = origin == "*"
            || Url::parse(origin).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == *origin
            });
        if !fits {
            return Err(Problem::field(
                path(index),
                "must be * or an origin as browsers send it: https://app.example.com",
            ));
        }
    }
    Ok(())
}

fn check_limits(environment: Environment, limits: Option<&Limits>) -> Result<(), Problem> {
    let Some(limits) = limits else { return Ok(()) };
    let fields = [
        ("subscriptions", limits.subscriptions),
        ("channels", limits.channels),
        ("messageBytes", limits.message_bytes),
        ("messagesPerSecond", limits.messages_per_second),
    ];
    let broken = fields.into_iter().filter(|(_, value)| *value == Some(0));
    let broken: Vec<Violation> = broken
        .map(|(name, _)| Violation::new(format!("config.limits.{environment}.{name}"), "must be at least 1"))
        .collect();
    if broken.is_empty() { Ok(()) } else { Err(Problem::fields(broken)) }
}

/// The settings as they are answered: connection URLs without their passwords.
pub(super) fn shown(sealer: &Sealer, application: &AppId, config: &ApplicationConfig) -> Value {
    let targets: Map<String, Value> = config
        .cdc
        .iter()
        .map(|(environment, target)| {
            let scope = Scope::new(application.clone(), *environment);
            let mut shown = shown_url(open_target(sealer, &scope, target));
            if let Some(manage) = target.manage_tables {
                shown["manageTables"] = json!(manage);
            }
            (environment.to_string(), shown)
        })
        .collect();
    let outboxes: Map<String, Value> = config
        .outbox
        .iter()
        .map(|(environment, outbox)| {
            let scope = Scope::new(application.clone(), *environment);
            (environment.to_string(), shown_url(open_outbox(sealer, &scope, outbox)))
        })
        .collect();
    json!({
        "cdc": targets,
        "outbox": outboxes,
        "webhookNetworkPolicy": config.webhook_network_policy,
        "topicPolicy": config.topic_policy,
        "allowedOrigins": config.allowed_origins,
        "limits": config.limits,
    })
}

fn shown_url(opened: Result<String, DatabaseError>) -> Value {
    match opened {
        Ok(url) => json!({ "databaseUrl": masked(&url) }),
        // Sealed under another secret key: it has to be set anew.
        Err(_) => json!({ "databaseUrl": null, "error": "cannot be opened; set it again" }),
    }
}

/// Host, port, user and database of a URL; nothing of its password.
fn masked(url: &str) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    if url.password().is_some() {
        url.set_password(Some(MASK)).ok()?;
    }
    url.set_query(None);
    url.set_fragment(None);
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked() {
        assert_eq!(
            masked("postgres://ann:s3cret@db.example:5433/shop?sslmode=require").as_deref(),
            Some("postgres://ann:****@db.example:5433/shop")
        );
        assert_eq!(masked("postgres://ann@db/shop").as_deref(), Some("postgres://ann@db/shop"));
    }
}
