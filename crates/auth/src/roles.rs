//! The four built-in roles and what each may do.

use shared_types::rights::{Action, Permission, Resource};
use std::str::FromStr;

/// A built-in role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Reads, but not users, roles, invites and keys.
    Viewer,
    /// Makes and changes topics, schemas, mappings, webhooks and what is done with them.
    Editor,
    /// Everything but changing keys.
    Admin,
    /// Everything.
    SuperAdmin,
}

impl Role {
    /// All four, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Editor, Self::Admin, Self::SuperAdmin];

    /// Its documented name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
            Self::SuperAdmin => "super_admin",
        }
    }

    /// Whether it holds `permission`.
    pub const fn holds(self, permission: Permission) -> bool {
        use Resource as R;
        let reads = matches!(permission.action, Action::Read);
        match self {
            Self::SuperAdmin => true,
            Self::Admin => reads || !matches!(permission.resource, R::Keys),
            Self::Editor => match permission.resource {
                R::Users | R::Roles => reads,
                R::Invites | R::Keys => false,
                _ => true,
            },
            Self::Viewer => {
                reads && !matches!(permission.resource, R::Users | R::Roles | R::Invites | R::Keys)
            }
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented table, and what was decided beyond it: `c` for all four actions, `r` for read.
    const TABLE: [(Resource, [char; 4]); 12] = [
        (Resource::Topics, ['r', 'c', 'c', 'c']),
        (Resource::Schemas, ['r', 'c', 'c', 'c']),
        (Resource::Mappings, ['r', 'c', 'c', 'c']),
        (Resource::Webhooks, ['r', 'c', 'c', 'c']),
        (Resource::Users, ['-', 'r', 'c', 'c']),
        (Resource::Roles, ['-', 'r', 'c', 'c']),
        (Resource::Invites, ['-', '-', 'c', 'c']),
        (Resource::Keys, ['-', '-', 'r', 'c']),
        (Resource::Deployments, ['r', 'c', 'c', 'c']),
        (Resource::Debugger, ['r', 'c', 'c', 'c']),
        (Resource::Documents, ['r', 'c', 'c', 'c']),
        (Resource::Socket, ['r', 'c', 'c', 'c']),
    ];

    #[test]
    fn roles_hold_what_the_table_says() {
        for (resource, cells) in TABLE {
            for (role, cell) in Role::ALL.into_iter().zip(cells) {
                for action in Action::ALL {
                    let expected = cell == 'c' || (cell == 'r' && action == Action::Read);
                    assert_eq!(
                        role.holds(Permission { resource, action }),
                        expected,
                        "{role:?} {resource:?} {action:?}"
                    );
                }
            }
        }
    }
}
