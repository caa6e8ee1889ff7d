//! As whom the server runs.
//!
//! Postgres refuses root. Owns the choice of another user when we are root, and giving files to them.

use std::os::unix::fs::chown;
use std::path::Path;

use crate::error::{Doing, LocalPostgresError};

/// A user to run the server as, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom the server has to run as; `None` where it is ourselves.
pub(crate) fn server_user() -> Result<Option<User>, LocalPostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").doing(|| "read /etc/passwd".to_owned())?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| user_in(&passwd, name))
        .map(Some)
        .ok_or(LocalPostgresError::NoUser)
}

/// The line `name:password:uid:gid:…` of the user database.
fn user_in(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

/// Makes `user` the owner of a file or directory, if there is somebody to give it to.
pub(crate) fn give_to(path: &Path, user: Option<User>) -> Result<(), LocalPostgresError> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid)).doing(|| format!("give {} to PostgreSQL", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_by_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgresql:x:7:7::/:/bin/sh\npostgres:x:101:104:a,b:/var:/bin/sh\nbad\n";
        assert_eq!(user_in(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(user_in(passwd, "nobody"), None);
        assert_eq!(user_in(passwd, "bad"), None);
    }
}
