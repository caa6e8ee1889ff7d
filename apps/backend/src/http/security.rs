//! The table of routes and what they ask for, as `docs/security.md` shows it.

use super::{
    access::{Need, Reach},
    route::{Access, Route},
};
use shared_types::rights::{Action, Permission, Resource};
use std::fmt::Write as _;

/// `topics:create`.
pub fn permission_name(permission: Permission) -> String {
    let resource = match permission.resource {
        Resource::Topics => "topics",
        Resource::Schemas => "schemas",
        Resource::Mappings => "mappings",
        Resource::Webhooks => "webhooks",
        Resource::Users => "users",
        Resource::Roles => "roles",
        Resource::Invites => "invites",
        Resource::Keys => "keys",
        Resource::Deployments => "deployments",
        Resource::Debugger => "debugger",
        Resource::Documents => "documents",
        Resource::Socket => "socket",
    };
    let action = match permission.action {
        Action::Read => "read",
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
    };
    format!("{resource}:{action}")
}

/// The table of all routes as Markdown.
pub fn table(routes: &[Route]) -> String {
    let mut lines: Vec<(String, String)> = routes
        .iter()
        .map(|route| {
            let line = format!("| `{} {}` | {} |", route.method, route.path, describe(route.access));
            (format!("{} {}", route.path, route.method), line)
        })
        .collect();
    lines.sort();
    let mut out = String::from("| route | asks for |\n|---|---|\n");
    for (_, line) in lines {
        let _ = writeln!(out, "{line}");
    }
    out
}

fn describe(access: Access) -> String {
    match access {
        Access::Open(reason) => format!("nothing by itself: {reason}"),
        Access::Granted(need, reach) => {
            let place = match reach {
                Reach::Scope => "",
                Reach::Path => ", in the application of the path",
                Reach::Somewhere => ", in any application; shows only what the caller sees",
                Reach::Everywhere => ", in all applications",
            };
            match need {
                Need::SignedIn => "being signed in".to_owned(),
                Need::Permission(permission) => format!("`{}`{place}", permission_name(permission)),
                Need::Verb(verb, permission) => format!(
                    "the verb `{}` on the name (tokens, API keys), `{}` (people){place}",
                    verb.as_str(),
                    permission_name(permission)
                ),
            }
        }
    }
}
