//! What somebody may do: verbs of a token, and resource × action of a role.

use crate::{error::Problem, topic::matches_pattern};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a token lets its holder do over a connection or REST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verb {
    /// Receive events of a topic, join a channel.
    #[serde(rename = "subscribe")]
    Subscribe,
    /// Publish to a topic or channel.
    #[serde(rename = "publish")]
    Publish,
    /// Enter and see presence.
    #[serde(rename = "presence")]
    Presence,
    /// Read documents and receive their events.
    #[serde(rename = "documents:read")]
    DocumentsRead,
    /// Write documents.
    #[serde(rename = "documents:write")]
    DocumentsWrite,
    /// Direct messages and REST broadcast.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// Read a topic's history.
    #[serde(rename = "history")]
    History,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] = [
        Self::Subscribe,
        Self::Publish,
        Self::Presence,
        Self::DocumentsRead,
        Self::DocumentsWrite,
        Self::Broadcast,
        Self::History,
    ];
    /// The verbs of the role `client`.
    pub const CLIENT: [Self; 4] = [Self::Subscribe, Self::Presence, Self::History, Self::DocumentsRead];

    /// Its name in tokens and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::DocumentsRead => "documents:read",
            Self::DocumentsWrite => "documents:write",
            Self::Broadcast => "broadcast",
            Self::History => "history",
        }
    }
}

/// The role of a token. A later one holds all that an earlier one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Subscribes, reads, takes part in presence.
    Client,
    /// A server: every verb.
    Service,
    /// Every verb, and the administration of its application.
    Admin,
}

/// The rights of a token: roles and verbs as listed in its `permissions`, narrowed by `capabilities`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    role: Option<TokenRole>,
    verbs: BTreeSet<Verb>,
    capabilities: Option<BTreeMap<String, BTreeSet<Verb>>>,
}

impl Rights {
    /// Reads `permissions` (roles and verbs) and `capabilities` (name pattern → verbs).
    ///
    /// # Errors
    /// `VALIDATION_FAILED` naming an unknown entry.
    pub fn parse(
        permissions: &[String],
        capabilities: Option<&BTreeMap<String, Vec<String>>>,
    ) -> Result<Self, Problem> {
        let (mut role, mut verbs) = (None, BTreeSet::new());
        for (index, name) in permissions.iter().enumerate() {
            match name.as_str() {
                "admin" => role = role.max(Some(TokenRole::Admin)),
                "service" => role = role.max(Some(TokenRole::Service)),
                "client" => role = role.max(Some(TokenRole::Client)),
                other => {
                    verbs.insert(verb(other, &format!("permissions[{index}]"))?);
                }
            }
        }
        match role {
            Some(TokenRole::Admin | TokenRole::Service) => verbs.extend(Verb::ALL),
            Some(TokenRole::Client) => verbs.extend(Verb::CLIENT),
            None => {}
        }
        let capabilities = capabilities.map(parse_capabilities).transpose()?;
        Ok(Self { role, verbs, capabilities })
    }

    /// Every verb on every name, with `role`.
    pub fn of_role(role: TokenRole) -> Self {
        let verbs = if role == TokenRole::Client { Verb::CLIENT.into() } else { Verb::ALL.into() };
        Self { role: Some(role), verbs, capabilities: None }
    }

    /// The role, if it has one.
    pub fn role(&self) -> Option<TokenRole> {
        self.role
    }

    /// Whether `verb` is held for at least some name.
    pub fn holds(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether `verb` may be used on `name` (a topic, a channel, or `sync.{service}.{id}` of a document).
    pub fn allows(&self, verb: Verb, name: &str) -> bool {
        self.holds(verb)
            && self.capabilities.as_ref().is_none_or(|capabilities| {
                capabilities
                    .iter()
                    .any(|(pattern, verbs)| verbs.contains(&verb) && matches_pattern(pattern, name))
            })
    }

    /// Whether these rights hold everything that `child` would.
    ///
    /// A child's capability lies within ours if one of our patterns with that verb matches the child's
    /// pattern read as a name: what `*` stands for there, ours stands for too.
    pub fn covers(&self, child: &Self) -> bool {
        if child.role > self.role || !child.verbs.is_subset(&self.verbs) {
            return false;
        }
        match (&self.capabilities, &child.capabilities) {
            (None, _) => true,
            (Some(_), None) => child.verbs.is_empty(),
            (Some(ours), Some(theirs)) => theirs.iter().all(|(pattern, verbs)| {
                verbs
                    .iter()
                    .filter(|verb| child.verbs.contains(verb))
                    .all(|verb| ours.iter().any(|(p, v)| v.contains(verb) && matches_pattern(p, pattern)))
            }),
        }
    }
}

fn verb(name: &str, path: &str) -> Result<Verb, Problem> {
    Verb::ALL.into_iter().find(|v| v.as_str() == name).ok_or_else(|| {
        let rule = "must be admin, service, client, subscribe, publish, presence, documents:read, \
                    documents:write, broadcast or history";
        Problem::field(path, rule)
    })
}

fn parse_capabilities(
    given: &BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, BTreeSet<Verb>>, Problem> {
    let mut parsed = BTreeMap::new();
    for (pattern, verbs) in given {
        if pattern.is_empty() || pattern.len() > crate::topic::MAX_NAME_BYTES {
            return Err(Problem::field("capabilities", "a name pattern has 1 to 255 bytes"));
        }
        let mut set = BTreeSet::new();
        for name in verbs {
            set.insert(verb(name, &format!("capabilities.{pattern}"))?);
        }
        parsed.insert(pattern.clone(), set);
    }
    Ok(parsed)
}

/// What a role's permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "the names are the documentation; decisions on their extent are in docs/security.md"
)]
pub enum Resource {
    Topics,
    Schemas,
    Mappings,
    Webhooks,
    Users,
    Roles,
    Invites,
    Keys,
    Deployments,
    Debugger,
    Documents,
    Socket,
}

impl Resource {
    /// All twelve.
    pub const ALL: [Self; 12] = [
        Self::Topics,
        Self::Schemas,
        Self::Mappings,
        Self::Webhooks,
        Self::Users,
        Self::Roles,
        Self::Invites,
        Self::Keys,
        Self::Deployments,
        Self::Debugger,
        Self::Documents,
        Self::Socket,
    ];
}

/// What a role's permission lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Action {
    Read,
    Create,
    Update,
    Delete,
}

impl Action {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Read, Self::Create, Self::Update, Self::Delete];
}

/// One cell of the permission matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Permission {
    /// On what.
    pub resource: Resource,
    /// What.
    pub action: Action,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(permissions: &[&str], capabilities: &[(&str, &[&str])]) -> Rights {
        let permissions: Vec<String> = permissions.iter().map(|&p| p.to_owned()).collect();
        let map: BTreeMap<String, Vec<String>> = capabilities
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.iter().map(|&s| s.to_owned()).collect()))
            .collect();
        Rights::parse(&permissions, (!map.is_empty()).then_some(&map)).expect("valid")
    }

    #[test]
    fn capabilities_narrow_verbs_to_names() {
        let narrow = rights(&["subscribe", "publish"], &[("chat:*", &["subscribe"])]);
        assert!(narrow.allows(Verb::Subscribe, "chat:1"));
        assert!(!narrow.allows(Verb::Publish, "chat:1"));
        assert!(!narrow.allows(Verb::Subscribe, "order.updated"));
    }

    #[test]
    fn a_child_never_exceeds_its_parent() {
        let parent = rights(&["subscribe", "publish"], &[("chat:*", &["subscribe"])]);
        assert!(parent.covers(&rights(&["subscribe"], &[("chat:room*", &["subscribe"])])));
        assert!(!parent.covers(&rights(&["subscribe"], &[("*", &["subscribe"])])));
        assert!(!parent.covers(&rights(&["subscribe"], &[])));
        assert!(!parent.covers(&rights(&["client"], &[("chat:1", &["subscribe"])])));
        assert!(rights(&["service"], &[]).covers(&rights(&["client"], &[])));
        assert!(!rights(&["service"], &[]).covers(&rights(&["admin"], &[])));
    }

    #[test]
    fn unknown_permissions_are_named() {
        let problem = Rights::parse(&["fly".to_owned()], None).expect_err("unknown");
        assert_eq!(problem.details[0].path, "permissions[0]");
    }
}
