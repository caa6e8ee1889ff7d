//! Every route with every kind of caller, against what the route asks for.

use crate::server::Server;
use auth::{Permissions, Role};
use axum::http::Method;
use backend::http::{
    access::{Need, Reach},
    route::{Access, Route},
    routes,
};
use shared_types::rights::{Rights, TokenRole};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    Person(Role),
    Token(TokenRole),
    ApiKey,
}

const CALLERS: [Who; 9] = [
    Who::Nobody,
    Who::Person(Role::Viewer),
    Who::Person(Role::Editor),
    Who::Person(Role::Admin),
    Who::Person(Role::SuperAdmin),
    Who::Token(TokenRole::Client),
    Who::Token(TokenRole::Service),
    Who::Token(TokenRole::Admin),
    Who::ApiKey,
];

impl Who {
    /// Whether the documented rules let them in.
    fn may(self, need: Need, reach: Reach) -> bool {
        let permissions = match self {
            Self::Nobody => return false,
            Self::Person(role) => Permissions::of([role]),
            Self::Token(TokenRole::Admin) => Permissions::of([Role::Admin]),
            Self::Token(_) | Self::ApiKey => Permissions::default(),
        };
        let rights = match self {
            Self::Token(role) => Some(Rights::of_role(role)),
            Self::ApiKey => Some(Rights::of_role(TokenRole::Service)),
            Self::Nobody | Self::Person(_) => None,
        };
        match (need, rights) {
            (Need::SignedIn, rights) => rights.is_none(),
            (Need::Verb(verb, _), Some(rights)) => rights.holds(verb),
            (_, Some(_)) if reach == Reach::Everywhere => false,
            (Need::Permission(permission) | Need::Verb(_, permission), _) => permissions.hold(permission),
        }
    }
}

async fn credential(server: &Server, who: Who) -> Option<String> {
    match who {
        Who::Nobody => None,
        Who::Person(role) => Some(server.person(role, None).await),
        Who::Token(TokenRole::Client) => Some(server.token(&["client"]).await),
        Who::Token(TokenRole::Service) => Some(server.token(&["service"]).await),
        Who::Token(TokenRole::Admin) => Some(server.token(&["admin"]).await),
        Who::ApiKey => Some(server.api_key(&["service"]).await),
    }
}

fn path(route: &Route) -> String {
    let id = if route.path.starts_with("/api/applications/") { "app_default" } else { "unknown.thing" };
    route
        .path
        .replace("{id}", id)
        .replace("{name}", id)
        .replace("{service}", "notes")
        .replace("{topic}", id)
        .replace("{keyId}", "key_unknown")
}

#[tokio::test]
async fn every_route_lets_in_exactly_whom_it_says() {
    let server = Server::start().await;
    for route in routes() {
        let Access::Granted(need, reach) = route.access else { continue };
        for who in CALLERS {
            let mut call = server.call(route.method.clone(), path(&route));
            if matches!(route.method, Method::POST | Method::PATCH) {
                call = call.text("{}");
            }
            if let Some(credential) = credential(&server, who).await {
                call = call.by(&credential);
            }
            let answer = call.send().await;
            let status = answer.status.as_u16();
            let place = format!("{} {} by {who:?}: {status} {}", route.method, route.path, answer.text);
            match who {
                Who::Nobody => assert_eq!(answer.refused(401, "AUTH_REQUIRED")["error"], "UnauthorizedError"),
                _ if who.may(need, reach) => {
                    assert!(![401, 403].contains(&status) && status < 500, "{place}")
                }
                _ => assert_eq!(answer.refused(403, "FORBIDDEN")["error"], "ForbiddenError", "{place}"),
            }
        }
    }
}

#[tokio::test]
async fn open_routes_ask_for_nothing() {
    let server = Server::start().await;
    for route in routes().into_iter().filter(|route| matches!(route.access, Access::Open(_))) {
        let mut call = server.call(route.method.clone(), route.path);
        if route.method == Method::POST {
            call = call.text("{}");
        }
        let answer = call.send().await;
        assert!(
            ![401, 403].contains(&answer.status.as_u16()),
            "{} {}: {}",
            route.method,
            route.path,
            answer.text
        );
    }
}

/// A few cells by hand, so that the table itself cannot drift with the code that reads it.
#[tokio::test]
async fn roles_as_documented() {
    let server = Server::start().await;
    let topic = serde_json::json!({ "name": "a.b", "description": "d", "owner": "o" });
    for (role, list_topics, make_topic, list_keys, make_key) in [
        (Role::Viewer, 200, 403, 403, 403),
        (Role::Editor, 200, 201, 403, 403),
        (Role::Admin, 200, 409, 200, 403),
        (Role::SuperAdmin, 200, 409, 200, 201),
    ] {
        let who = server.person(role, None).await;
        let statuses = [
            server.get("/api/topics").by(&who).send().await.status.as_u16(),
            server.post("/api/topics", topic.clone()).by(&who).send().await.status.as_u16(),
            server.get("/api/admin/keys").by(&who).send().await.status.as_u16(),
            server.call(Method::POST, "/api/admin/keys").by(&who).send().await.status.as_u16(),
        ];
        assert_eq!(statuses, [list_topics, make_topic, list_keys, make_key], "{role:?}");
    }
}
