//! People: the first one, signing in and out, and their sessions.

use crate::{
    authenticator::{Authenticator, now_ms},
    grants::{Permissions, roles_in},
    passwords,
    roles::Role,
    secrets,
};
use database::{
    DatabaseError,
    tables::{
        login_failures::{self, Delay},
        sessions::{self, NewSession, Session},
        users::{self, User},
    },
};
use shared_types::{AppId, ErrorKind, Problem, UserId, ids::new_id};
use subtle::ConstantTimeEq;

/// A session ends after this long without use, in seconds.
const IDLE_SECONDS: i64 = 12 * 3_600;
/// And after this long in any case.
const LONGEST_SECONDS: i64 = 7 * 86_400;
/// A session that was used within this time is not touched again, in milliseconds.
const TOUCHED_MS: i64 = 60_000;
/// Ten failures are free, then the wait doubles from 1 s to 15 min.
const DELAY: Delay = Delay { free_failures: 10, first_seconds: 1, max_seconds: 900 };

/// Somebody signed in, with all their roles.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub user: User,
    /// By which session.
    pub session: Session,
    /// Roles, each everywhere or in one application.
    roles: Vec<(Role, Option<String>)>,
}

impl Person {
    /// What they may do in `application`.
    pub fn permissions_in(&self, application: &AppId) -> Permissions {
        roles_in(&self.roles, application)
    }

    /// What they may do in every application.
    pub fn permissions_everywhere(&self) -> Permissions {
        Permissions::of(self.roles.iter().filter(|(_, only)| only.is_none()).map(|(role, _)| *role))
    }

    /// What they may do in at least one application.
    pub fn permissions_somewhere(&self) -> Permissions {
        Permissions::of(self.roles.iter().map(|(role, _)| *role))
    }

    /// The applications that they see; `None` for all.
    pub fn visible_applications(&self) -> Option<Vec<String>> {
        if !self.permissions_everywhere().is_empty() {
            return None;
        }
        Some(self.roles.iter().filter_map(|(_, only)| only.clone()).collect())
    }

    /// Their roles, each with the only application where it holds.
    pub fn roles(&self) -> impl Iterator<Item = (Role, Option<&str>)> {
        self.roles.iter().map(|(role, only)| (*role, only.as_deref()))
    }
}

/// The first person.
#[derive(Clone, Debug)]
pub struct NewPerson {
    /// What they are called.
    pub name: String,
    /// Where they are reached; what they sign in with.
    pub email: String,
    /// Their password.
    pub password: String,
}

/// An attempt to sign in, or to set up: from where and with what.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// The peer's address.
    pub address: Option<String>,
    /// The `User-Agent`.
    pub user_agent: Option<String>,
}

/// Why signing in or setting up was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// As a caller is told it.
    pub problem: Problem,
    /// After how many seconds another attempt may succeed, where attempts are held back.
    pub retry_after_seconds: Option<u64>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, retry_after_seconds: None }
    }
}

impl From<DatabaseError> for Refusal {
    fn from(error: DatabaseError) -> Self {
        Problem::from(error).into()
    }
}

/// A new session with its token, which is told only now.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Who.
    pub user: User,
    /// `sess_…`.
    pub token: String,
    /// Unix milliseconds; moves on with use.
    pub expires_at_ms: i64,
}

impl Authenticator {
    /// Whether there is nobody yet.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn setup_required(&self) -> Result<bool, Problem> {
        Ok(users::none_exist(&self.pool).await?)
    }

    /// The one-time code that setting up asks for in production: the same on all instances, and worthless once
    /// somebody exists.
    pub fn setup_code(&self) -> String {
        let digest = self.sealer.fingerprint("setup code", b"");
        let code = hex::encode(&digest[..10]);
        [&code[..5], &code[5..10], &code[10..15], &code[15..]].join("-")
    }

    /// Makes the first person, a `super_admin`, and signs them in. Works once, however many call.
    ///
    /// # Errors
    /// `SETUP_DONE` (409), `SETUP_CODE_WRONG` (403) where `code_demanded` and the code is another,
    /// `VALIDATION_FAILED`, and 429 after many wrong codes.
    pub async fn set_up(
        &self,
        person: &NewPerson,
        code_demanded: bool,
        code: Option<&str>,
        attempt: &Attempt,
    ) -> Result<SignedIn, Refusal> {
        check_person(person)?;
        if !self.setup_required().await? {
            return Err(setup_done().into());
        }
        if code_demanded {
            self.check_setup_code(code, attempt).await?;
        }
        let hash = self.passwords.hash(person.password.clone()).await?;
        let mut tx = self.pool.begin().await.map_err(DatabaseError::from)?;
        users::lock_setup(&mut tx).await?;
        if !users::none_exist(&mut *tx).await? {
            return Err(setup_done().into());
        }
        let id = UserId::generate();
        let user = users::insert(&mut *tx, &id, person.email.trim(), person.name.trim(), &hash).await?;
        users::assign_role(&mut *tx, &id, Role::SuperAdmin.as_str(), None).await?;
        tx.commit().await.map_err(DatabaseError::from)?;
        Ok(self.begin_session(user, attempt).await?)
    }

    async fn check_setup_code(&self, code: Option<&str>, attempt: &Attempt) -> Result<(), Refusal> {
        let account = secrets::hash("setup");
        self.throttle(&account, attempt).await?;
        let given = code.unwrap_or_default().trim().to_ascii_lowercase();
        if !bool::from(given.as_bytes().ct_eq(self.setup_code().as_bytes())) {
            let message =
                "setupCode: must be the code that the server printed in its log when it first started";
            return Err(Problem::new(ErrorKind::Forbidden, "SETUP_CODE_WRONG", message).into());
        }
        self.unthrottle(&account, attempt).await
    }

    /// Signs somebody in.
    ///
    /// # Errors
    /// `LOGIN_FAILED` (401, the same for an unknown address and a wrong password, after the same time),
    /// `LOGIN_DELAYED` (429) after many failures.
    pub async fn log_in(&self, email: &str, password: &str, attempt: &Attempt) -> Result<SignedIn, Refusal> {
        let account = secrets::hash(&email.trim().to_lowercase());
        self.throttle(&account, attempt).await?;
        let found = users::find_for_login(&self.pool, email.trim()).await?;
        let (user, hash) = found.unzip();
        if !self.passwords.verify(password.to_owned(), hash).await? {
            return Err(login_failed().into());
        }
        let user = user.ok_or_else(login_failed)?;
        self.unthrottle(&account, attempt).await?;
        Ok(self.begin_session(user, attempt).await?)
    }

    /// The person whose session has this token, which moves its end on.
    ///
    /// # Errors
    /// `SESSION_EXPIRED` (401) for any token without a live session.
    pub async fn verify_session(&self, token: &str) -> Result<Person, Problem> {
        let found = sessions::find_live(&self.pool, &secrets::hash(token)).await?;
        let (session, user) = found.ok_or_else(|| {
            Problem::new(
                ErrorKind::Unauthenticated,
                "SESSION_EXPIRED",
                "the session has ended; sign in again",
            )
        })?;
        self.touch(&session).await;
        let rows = users::roles(&self.pool, &user.id).await?;
        let roles =
            rows.into_iter().filter_map(|row| Some((row.role.parse().ok()?, row.application_id))).collect();
        Ok(Person { user, session, roles })
    }

    /// Moves a session's end on. A database that takes no writes keeps nobody from reading: a later use does it.
    async fn touch(&self, session: &Session) {
        if now_ms() - session.last_used_at < TOUCHED_MS {
            return;
        }
        let touched = sessions::touch(&self.pool, &session.id, IDLE_SECONDS, LONGEST_SECONDS).await;
        if let Err(error) = touched {
            tracing::warn!(%error, session.id = %session.id, "a session's end could not be moved on");
        }
    }

    /// The live sessions of a person.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn sessions(
        &self,
        person: &Person,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Session>, Problem> {
        Ok(sessions::list(&self.pool, &person.user.id, after, limit).await?)
    }

    /// Ends one of a person's sessions.
    ///
    /// # Errors
    /// `NOT_FOUND`, also for a session of somebody else.
    pub async fn end_session(&self, person: &Person, id: &str) -> Result<(), Problem> {
        match sessions::delete(&self.pool, &person.user.id, id).await? {
            true => Ok(()),
            false => Err(Problem::not_found("session", id)),
        }
    }

    async fn begin_session(&self, user: User, attempt: &Attempt) -> Result<SignedIn, Problem> {
        let token = format!("sess_{}", secrets::random());
        let id = new_id("sess");
        let user_agent: Option<String> =
            attempt.user_agent.as_ref().map(|text| text.chars().take(256).collect());
        let session = NewSession {
            id: &id,
            user_id: &user.id,
            token_hash: &secrets::hash(&token),
            address: attempt.address.as_deref(),
            user_agent: user_agent.as_deref(),
            idle_seconds: IDLE_SECONDS,
        };
        let expires_at_ms = sessions::insert(&self.pool, &session).await?;
        Ok(SignedIn { user, token, expires_at_ms })
    }

    async fn throttle(&self, account: &[u8], attempt: &Attempt) -> Result<(), Refusal> {
        let mut tx = self.pool.begin().await.map_err(DatabaseError::from)?;
        let wait = login_failures::begin(&mut tx, account, address(attempt), DELAY).await?;
        tx.commit().await.map_err(DatabaseError::from)?;
        match wait {
            None => Ok(()),
            Some(wait_ms) => {
                let seconds = u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000);
                let message = format!("too many failed attempts; try again in {seconds} s");
                let problem = Problem::new(ErrorKind::TooMany, "LOGIN_DELAYED", message);
                Err(Refusal { problem, retry_after_seconds: Some(seconds) })
            }
        }
    }

    async fn unthrottle(&self, account: &[u8], attempt: &Attempt) -> Result<(), Refusal> {
        let mut tx = self.pool.begin().await.map_err(DatabaseError::from)?;
        login_failures::succeeded(&mut tx, account, address(attempt)).await?;
        tx.commit().await.map_err(DatabaseError::from)?;
        Ok(())
    }
}

fn address(attempt: &Attempt) -> &str {
    attempt.address.as_deref().unwrap_or("unknown")
}

fn login_failed() -> Problem {
    Problem::new(ErrorKind::Unauthenticated, "LOGIN_FAILED", "e-mail or password is wrong")
}

fn setup_done() -> Problem {
    Problem::new(ErrorKind::Conflict, "SETUP_DONE", "the platform is set up already; sign in instead")
}

fn check_person(person: &NewPerson) -> Result<(), Problem> {
    let name = person.name.trim();
    if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
        return Err(Problem::field("name", "must have 1 to 200 bytes and no control characters"));
    }
    let email = person.email.trim();
    let shaped = email.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
    if !shaped || email.len() > 254 || email.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Problem::field("email", "must be an e-mail address"));
    }
    passwords::check("password", &person.password)
}
