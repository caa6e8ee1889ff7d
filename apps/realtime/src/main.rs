//! realtime
fn main() {}
