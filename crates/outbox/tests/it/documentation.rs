//! What the documentation shows is what is run.

#[test]
fn the_documentation_shows_the_statements_that_are_run() {
    let page = include_str!("../../../../docs/outbox.md");
    assert!(page.contains(outbox::INSTALL_SQL), "docs/outbox.md does not hold src/install.sql as it is");
}
