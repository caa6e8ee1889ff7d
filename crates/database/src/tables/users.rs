//! `users` and `user_roles`: the people who sign in and what they may do.

use crate::DatabaseError;
use shared_types::UserId;
use sqlx::{FromRow, PgConnection, PgExecutor};

/// Taken while the first user is made, so that two calls cannot both find none.
const SETUP_LOCK: i64 = 0x7265_616c_7365_7475;

/// A person, without the password's hash.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct User {
    /// `usr_…`.
    pub id: String,
    /// As it was given.
    pub email: String,
    /// What they are called.
    pub name: String,
    /// Unix milliseconds.
    pub created_at: i64,
}

/// A role that a user holds.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct UserRole {
    /// `super_admin`, `admin`, `editor` or `viewer`.
    pub role: String,
    /// The only application in which it holds; everywhere where absent.
    pub application_id: Option<String>,
}

/// Whether there is nobody yet.
///
/// # Errors
/// Only those of the database.
pub async fn none_exist(executor: impl PgExecutor<'_>) -> Result<bool, DatabaseError> {
    Ok(sqlx::query_scalar("select not exists (select from users)").fetch_one(executor).await?)
}

/// Waits until no other transaction is making the first user, and keeps others waiting until this one ends.
///
/// # Errors
/// Only those of the database.
pub async fn lock_setup(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(SETUP_LOCK).execute(connection).await?;
    Ok(())
}

/// Inserts a person.
///
/// # Errors
/// Violates `users_email` where the address is taken.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    id: &UserId,
    email: &str,
    name: &str,
    password_hash: &str,
) -> Result<User, DatabaseError> {
    let sql = "
        insert into users (id, email, name, password_hash) values ($1, $2, $3, $4)
        returning id, email, name, (extract(epoch from created_at) * 1000)::bigint as created_at";
    Ok(sqlx::query_as(sql)
        .bind(id.as_str())
        .bind(email)
        .bind(name)
        .bind(password_hash)
        .fetch_one(executor)
        .await?)
}

/// Gives a role, everywhere or in one application.
///
/// # Errors
/// Only those of the database.
pub async fn assign_role(
    executor: impl PgExecutor<'_>,
    user: &UserId,
    role: &str,
    application: Option<&str>,
) -> Result<(), DatabaseError> {
    let sql =
        "insert into user_roles (user_id, role, application_id) values ($1, $2, $3) on conflict do nothing";
    sqlx::query(sql).bind(user.as_str()).bind(role).bind(application).execute(executor).await?;
    Ok(())
}

/// The active person with this address, and the password's hash.
///
/// # Errors
/// Only those of the database.
pub async fn find_for_login(
    executor: impl PgExecutor<'_>,
    email: &str,
) -> Result<Option<(User, String)>, DatabaseError> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        user: User,
        password_hash: String,
    }
    let sql = "
        select id, email, name, (extract(epoch from created_at) * 1000)::bigint as created_at, password_hash
        from users where lower(email) = lower($1) and active";
    let row: Option<Row> = sqlx::query_as(sql).bind(email).fetch_optional(executor).await?;
    Ok(row.map(|row| (row.user, row.password_hash)))
}

/// The roles of a person.
///
/// # Errors
/// Only those of the database.
pub async fn roles(executor: impl PgExecutor<'_>, user: &str) -> Result<Vec<UserRole>, DatabaseError> {
    let sql = "select role, application_id from user_roles where user_id = $1 order by role, application_id";
    Ok(sqlx::query_as(sql).bind(user).fetch_all(executor).await?)
}
