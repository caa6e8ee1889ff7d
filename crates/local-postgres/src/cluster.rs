//! Making a server's data directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::directory::Directory;
use crate::error::{Doing, LocalPostgresError};
use crate::identity::{User, give_to};
use crate::process::command;
use crate::settings::{Durability, Options};

/// More than `initdb` ever takes, even on a busy machine.
const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// Runs `initdb` unless the cluster exists.
///
/// It is made beside its place and moved there when complete: one that was interrupted is made anew.
pub(crate) async fn ensure(
    directory: &Directory,
    bin: &Path,
    user: Option<User>,
    options: &Options,
) -> Result<(), LocalPostgresError> {
    let cluster = directory.cluster();
    if cluster.join("PG_VERSION").is_file() {
        return Ok(());
    }
    let making = directory.root().join("cluster.new");
    if making.exists() {
        fs::remove_dir_all(&making).doing(|| format!("remove {}", making.display()))?;
    }
    fs::create_dir(&making).doing(|| format!("create {}", making.display()))?;
    give_to(&making, user)?;
    let password_file = directory.root().join("password.initdb");
    fs::write(&password_file, directory.password()?).doing(|| "write the password".to_owned())?;
    give_to(&password_file, user)?;
    restrict(&password_file)?;

    let made = run_initdb(bin, &making, &password_file, user, options).await;
    fs::remove_file(&password_file).doing(|| "remove the password file".to_owned())?;
    made?;

    let main = making.join("postgresql.conf");
    let mut text = fs::read_to_string(&main).doing(|| format!("read {}", main.display()))?;
    text.push_str("\ninclude_if_exists = 'realtime.conf'\n");
    fs::write(&main, text).doing(|| format!("write {}", main.display()))?;
    fs::rename(&making, &cluster).doing(|| format!("move {} to its place", making.display()))
}

/// Tries the locale that sorts the same on every machine, and `C` where the system lacks it.
async fn run_initdb(
    bin: &Path,
    cluster: &Path,
    password_file: &Path,
    user: Option<User>,
    options: &Options,
) -> Result<(), LocalPostgresError> {
    let mut failure = String::new();
    for locale in ["C.UTF-8", "C"] {
        let mut initdb = command(&bin.join("initdb"), user);
        // Throwaway servers see many connections from programs built without optimization, in which
        // SCRAM's key derivation takes longer than the tests themselves.
        let authentication = match options.durability {
            Durability::Durable => "--auth=scram-sha-256",
            Durability::Throwaway => "--auth=md5",
        };
        initdb
            .arg("-D")
            .arg(cluster)
            .args(["-U", &options.user, authentication, "--encoding=UTF8", "--no-instructions"])
            .arg(format!("--locale={locale}"))
            .arg(format!("--pwfile={}", password_file.display()));
        if options.durability == Durability::Throwaway {
            initdb.arg("--no-sync");
        }
        let mut initdb = tokio::process::Command::from(initdb);
        initdb.kill_on_drop(true);
        let output = tokio::time::timeout(INITDB_LIMIT, initdb.output())
            .await
            .map_err(|_| LocalPostgresError::InitDb(format!("no end after {} s", INITDB_LIMIT.as_secs())))?
            .doing(|| "run initdb".to_owned())?;
        if output.status.success() {
            return Ok(());
        }
        failure = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !failure.contains("locale") {
            break;
        }
    }
    Err(LocalPostgresError::InitDb(failure))
}

fn restrict(file: &Path) -> Result<(), LocalPostgresError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
        .doing(|| format!("restrict {}", file.display()))
}

/// Writes the settings that hold from the next start on.
pub(crate) fn configure(
    directory: &Directory,
    user: Option<User>,
    options: &Options,
    port: u16,
) -> Result<(), LocalPostgresError> {
    let file = directory.cluster().join("realtime.conf");
    fs::write(&file, options.configuration(port)).doing(|| format!("write {}", file.display()))?;
    give_to(&file, user)
}
