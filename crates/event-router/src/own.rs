//! Names of the platform's own, which begin with `@` so that no client can use them.

/// The topic in which side-effect readers find `socket.connect` and `socket.disconnect`.
pub const CONNECTIONS: &str = "@connections";
/// The topic in which side-effect readers find `presence.updated`.
pub const PRESENCE: &str = "@presence";
/// The key under which instances say what happens, while somebody watches.
pub const TRAFFIC: &str = "@traffic";
/// What the names of the keys begin with under which instances send each other mail.
pub const MAIL: &str = "@socket/";
