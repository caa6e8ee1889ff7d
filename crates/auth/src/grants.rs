//! What a person may do in one application, and what a token of theirs may hold.

use crate::roles::Role;
use shared_types::{
    AppId,
    rights::{Action, Permission, Resource, Rights, TokenRole, Verb},
};

/// The roles that hold for somebody in one application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    roles: Vec<Role>,
}

impl Permissions {
    /// The permissions of `roles` together.
    pub fn of(roles: impl IntoIterator<Item = Role>) -> Self {
        Self { roles: roles.into_iter().collect() }
    }

    /// The permissions of a token's or an API key's role on the administrative routes.
    pub fn of_rights(rights: &Rights) -> Self {
        Self::of((rights.role() == Some(TokenRole::Admin)).then_some(Role::Admin))
    }

    /// Whether nothing is permitted at all.
    pub fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    /// Whether `permission` is held.
    pub fn hold(&self, permission: Permission) -> bool {
        self.roles.iter().any(|role| role.holds(permission))
    }

    /// Every permission held, in the order of resources and actions.
    pub fn list(&self) -> Vec<Permission> {
        let all = Resource::ALL
            .into_iter()
            .flat_map(|resource| Action::ALL.into_iter().map(move |action| Permission { resource, action }));
        all.filter(|permission| self.hold(*permission)).collect()
    }

    /// The most that a token made by this person may hold.
    ///
    /// Subscribing, presence and history need `socket:read`, publishing and broadcasting `socket:create`,
    /// documents `documents:read` and `documents:update`. A token acts as an administrator only for who holds
    /// all that the role `admin` holds.
    pub fn token_rights(&self) -> Rights {
        let needs = |verb| match verb {
            Verb::Subscribe | Verb::Presence => (Resource::Socket, Action::Read),
            Verb::Publish | Verb::Broadcast => (Resource::Socket, Action::Create),
            Verb::DocumentsRead | Verb::History => (Resource::Documents, Action::Read),
            Verb::DocumentsWrite => (Resource::Documents, Action::Update),
        };
        let held = |verb: &Verb| {
            let (resource, action) = needs(*verb);
            self.hold(Permission { resource, action })
        };
        if self.roles.iter().any(|role| *role >= Role::Admin) {
            return Rights::of_role(TokenRole::Admin);
        }
        if Verb::ALL.iter().all(held) {
            return Rights::of_role(TokenRole::Service);
        }
        if Verb::CLIENT.iter().all(held) {
            return Rights::of_role(TokenRole::Client);
        }
        let verbs: Vec<String> =
            Verb::ALL.into_iter().filter(held).map(|verb| verb.as_str().to_owned()).collect();
        Rights::parse(&verbs, None).expect("verbs by their own names")
    }
}

/// The roles among `assigned` that hold in `application`.
pub(crate) fn roles_in<'a>(
    assigned: impl IntoIterator<Item = &'a (Role, Option<String>)>,
    application: &AppId,
) -> Permissions {
    let holds = |only: &Option<String>| only.as_deref().is_none_or(|id| id == application.as_str());
    Permissions::of(assigned.into_iter().filter(|(_, only)| holds(only)).map(|(role, _)| *role))
}
