//! The SDK's browser build is embedded: a build of it that comes later, or anew, is taken up.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../sdk/dist/realtime.browser.js");
}
