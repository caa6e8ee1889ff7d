//! What is generated from code is fresh: the API's description and the table of permissions.
//!
//! `UPDATE_DOCS=1` writes them anew.

use crate::server::Server;
use backend::http::{openapi, routes, security::table};
use std::{collections::BTreeSet, env, fs, path::PathBuf};

const BEGIN: &str = "<!-- routes: generated -->\n";
const END: &str = "<!-- routes: end -->";

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

#[track_caller]
fn fresh(name: &str, expected: &str) {
    let path = document(name);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/{name} is not fresh: run the tests with UPDATE_DOCS=1");
}

#[test]
fn the_description_is_fresh() {
    fresh("openapi.json", &(openapi().to_pretty_json().unwrap() + "\n"));
}

#[test]
fn the_table_of_permissions_is_fresh() {
    let text = fs::read_to_string(document("security.md")).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (_, after) = rest.split_once(END).expect("the table's end");
    fresh("security.md", &format!("{before}{BEGIN}{}{END}{after}", table(&routes())));
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let routed: BTreeSet<String> =
        routes().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let described = serde_json::to_value(openapi()).unwrap();
    let described: BTreeSet<String> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert_eq!(described, routed);
}

#[test]
fn every_code_is_explained() {
    let text = fs::read_to_string(document("error-codes.md")).unwrap();
    let sources = [
        "apps/backend/src",
        "crates/auth/src",
        "crates/event-log/src",
        "crates/event-router/src",
        "crates/document-store/src",
        "crates/shared-types/src",
        "crates/sync/src",
        "crates/topic-registry/src",
        "crates/database/src",
    ];
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    for code in sources.iter().flat_map(|folder| codes(&root.join(folder))).collect::<BTreeSet<_>>() {
        assert!(text.contains(&format!("`{code}`")), "{code} is not in docs/error-codes.md");
    }
}

/// The codes that problems are made with: the first capitals in quotes after a constructor.
fn codes(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(codes(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for at in ["Problem::new(", "Problem::invalid("].iter().flat_map(|maker| text.match_indices(maker)) {
            let rest: String = text[at.0..].chars().take(200).collect();
            let quoted = rest.split('"').nth(1).unwrap_or_default();
            if !quoted.is_empty() && quoted.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
                found.push(quoted.to_owned());
            }
        }
    }
    found
}

#[tokio::test]
async fn the_server_describes_itself() {
    let server = Server::start().await;
    let served = server.get("/api/openapi.json").send().await.ok();
    assert_eq!(served, serde_json::to_value(openapi()).unwrap());
    let page = server.get("/api/docs/").send().await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("swagger-ui"));
    let start = server.get("/api/docs/swagger-initializer.js").send().await;
    assert!(start.text.contains("/api/openapi.json"), "{}", start.text);
    assert!(!page.text.contains("https://"), "nothing is fetched from elsewhere");
}
